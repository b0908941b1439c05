"""Measurements of speed, size and memory; each command is a module, ``docs/speed.md`` has the figures.

==================================== ===========================================================================
``python -m benchmarks.codec``       encoding and decoding, beside memcpy and zstd
``python -m benchmarks.tensors``     many tensors against one of the same size
``python -m benchmarks.size``        bytes against the entropy of the levels, and zstd on the packed codes
``python -m benchmarks.peers``       other codecs at the same distortion
``python -m benchmarks.schemes``     other schemes at given budgets: what they use, lose and take
``python -m benchmarks.startup``     imports, and the first call against the second
``python -m benchmarks.memory``      memory beyond the update
``python -m benchmarks.flower``      one round of Flower: our share of it, and the server's aggregation
``python -m benchmarks.updates``     trains models a little, for real updates that the others read
``python -m benchmarks.regressions`` saves ratios, and shows what has become slower since
``python -m benchmarks.goals``       what is to be reached, and what is measured
``python -m benchmarks.page``        runs the commands of ``docs/speed.md``, and puts their tables in
==================================== ===========================================================================
"""
