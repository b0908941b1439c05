"""The schemes that tests run through, with their options."""

from importlib.util import find_spec

from flwr_co3.schemes import Scheme, make_scheme

#: Schemes that need a package of their own, where it is not installed.
MISSING = {name for name, package in (("sz3", "pysz"), ("nncodec", "nncodec")) if find_spec(package) is None}

VARIANTS: dict[str, Scheme] = {
    "none": make_scheme("none"),
    "cast": make_scheme("cast"),
    "cast, float16": make_scheme("cast", dtype="float16"),
    "uniform": make_scheme("uniform"),
    "uniform, fine": make_scheme("uniform", step=1e-3),
    "qsgd": make_scheme("qsgd"),
    "qsgd, few levels": make_scheme("qsgd", levels=1.5),
    "qsgd, many levels": make_scheme("qsgd", levels=5000),
    "adaquantfl": make_scheme("adaquantfl", levels=30),
    "terngrad": make_scheme("terngrad"),
    "terngrad, unclipped": make_scheme("terngrad", clip=0),
    "sign": make_scheme("sign"),
    "bingrad_b": make_scheme("bingrad_b"),
    "orq": make_scheme("orq"),
    "orq, 3 levels": make_scheme("orq", bits=1),
    "tinyscript": make_scheme("tinyscript"),
    "tinyscript, 1 bit": make_scheme("tinyscript", bits=1),
    "topk": make_scheme("topk"),
    "topk, all": make_scheme("topk", share=1.0),
    "ef21": make_scheme("ef21", share=0.1),
    "m22": make_scheme("m22"),
    "m22, Weibull": make_scheme("m22", model="dweibull", bits=3, weight=4.0, share=0.2),
    "onebit": make_scheme("onebit"),
    "lruvq": make_scheme("lruvq"),
    "lruvq, all": make_scheme("lruvq", share=1.0, step=0.05),
    "eden": make_scheme("eden", bits=2),
    "eden, between": make_scheme("eden", bits=1.3),
    "eden, little": make_scheme("eden", bits=0.1),
    "drive": make_scheme("drive"),
    "countsketch": make_scheme("countsketch"),
    "homomorphic": make_scheme("homomorphic"),
    **({} if "sz3" in MISSING else {"sz3": make_scheme("sz3")}),
}
