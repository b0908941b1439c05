"""The schemes that tests run through, with their options."""

from flwr_co3.schemes import Scheme, make_scheme

VARIANTS: dict[str, Scheme] = {
    "none": make_scheme("none"),
    "qsgd": make_scheme("qsgd"),
    "qsgd, few levels": make_scheme("qsgd", levels=1.5),
    "qsgd, many levels": make_scheme("qsgd", levels=5000),
    "topk": make_scheme("topk"),
    "topk, all": make_scheme("topk", share=1.0),
}
