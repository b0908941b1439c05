/* The compiled loops that decode what came over the network, called with whatever a fuzzer makes up, thousands of times
 * faster than from Python. The loops with vector instructions and without must agree; sanitizers see to the rest.
 *
 * With libFuzzer this is a fuzz target, which brings Python along. With -DREPLAY it is a Python module, `loops`, whose
 * `replay` runs one input: for that, GCC will do.
 */
#include "../../flwr_co3/_kernels.c"

#include <stdio.h>

/* -- what the input says; zeros follow its end ---------------------------------------------------------------------- */

static const uint8_t *input;
static size_t input_left;

static uint64_t number(int size, uint64_t below) {
    uint64_t value = 0;
    for (int i = 0; i < size; i++) {
        uint64_t byte = input_left ? *input : 0;
        if (input_left) input++, input_left--;
        value |= byte << (8 * i);
    }
    return value % below;
}

/* -- arguments, each in memory of its own --------------------------------------------------------------------------- */

enum { MOST = 64 };
static void *blocks[MOST];
static int block_count;

static void *block(size_t size) {
    void *data = calloc(size, 1);
    if (!data || block_count == MOST) abort(); /* sanitizers give a block for nothing too */
    return blocks[block_count++] = data;
}

static uint8_t *taken(size_t size) {
    uint8_t *data = block(size);
    size_t there = size < input_left ? size : input_left;
    if (there) memcpy(data, input, there);
    input += there;
    input_left -= there;
    return data;
}

static PyObject *view(void *data, size_t size) {
    PyObject *result = PyMemoryView_FromMemory(data, (Py_ssize_t)size, PyBUF_WRITE);
    if (!result) abort();
    return result;
}

/* Frequencies of 1 to 256 symbols that sum to 2^14, or whatever 512 bytes hold. */
static void table_of(uint16_t *frequencies) {
    uint64_t kind = number(1, 32), left = TOTAL;
    memset(frequencies, 0, 512);
    if (kind == 31) {
        for (int s = 0; s < 256; s++) frequencies[s] = (uint16_t)number(2, 1 << 16);
        return;
    }
    for (uint64_t k = 0; k < kind && left > 1; k++) {
        uint64_t symbol = number(1, 256), share = number(2, left);
        frequencies[symbol] = (uint16_t)(frequencies[symbol] + share);
        left -= share;
    }
    uint64_t last = number(1, 256);
    frequencies[last] = (uint16_t)(frequencies[last] + left);
}

/* What a call returns, as a number; -1 where it refuses its arguments with ValueError. */
static long call(PyCFunction function, PyObject *args) {
    if (!args) abort();
    PyObject *result = function(NULL, args);
    Py_DECREF(args);
    if (!result) {
        if (!PyErr_ExceptionMatches(PyExc_ValueError) && !PyErr_ExceptionMatches(PyExc_MemoryError)) abort();
        PyErr_Clear();
        return -1;
    }
    long status = PyLong_Check(result) ? PyLong_AsLong(result) : 0;
    Py_DECREF(result);
    return status;
}

static void must(int holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "Broken: %s.\n", what);
    abort();
}

static void with_vectors(int wanted) { call(py_use, Py_BuildValue("(i)", wanted)); }

/* -- targets -------------------------------------------------------------------------------------------------------- */

static void rans(void) {
    uint64_t kind = number(1, 256), n = number(1, 4), rows = 0;
    int lanes = kind < 160 ? 1 << (kind % 7) : (int)(kind % 70), encoded = kind >= 40 && lanes > 0;
    long long rows_per_chunk = (long long)number(2, 1 << 12), chunk = (long long)number(1, 4);
    int64_t *lengths = block(8 * n), *packings = block(40 * n);
    uint16_t *frequencies = block(512 * n);
    uint8_t *symbols[4] = {NULL};
    for (uint64_t k = 0; k < n; k++) {
        lengths[k] = kind == 39 ? -1 : (int64_t)number(2, 3000);
        table_of(frequencies + 256 * k);
        rows += encoded ? ((uint64_t)lengths[k] + (uint64_t)lanes - 1) / (uint64_t)lanes : 0;
    }
    uint8_t *data;
    size_t size;
    if (encoded) { /* what an encoder writes, and then some bytes changed */
        PyObject *list = PyList_New(0);
        for (uint64_t k = 0; k < n; k++) {
            symbols[k] = block((size_t)lengths[k]);
            uint8_t used[256], pattern[8];
            int count = 0;
            uint32_t sum = 0;
            for (int s = 0; s < 256; s++) sum += frequencies[256 * k + (uint64_t)s];
            if (sum != TOTAL) memset(frequencies + 256 * k, 0, 512), frequencies[256 * k] = TOTAL;
            for (int s = 0; s < 256; s++)
                if (frequencies[256 * k + (uint64_t)s]) used[count++] = (uint8_t)s;
            for (int i = 0; i < 8; i++) pattern[i] = (uint8_t)number(1, 256);
            for (int64_t i = 0; i < lengths[k]; i++) symbols[k][i] = used[(pattern[i % 8] + i / 8 * pattern[7]) % count];
            int64_t packing[5] = {lengths[k], 1, 256, 0, 0};
            memcpy(packings + 5 * k, packing, sizeof packing);
            PyObject *item = view(symbols[k], (size_t)lengths[k]);
            PyList_Append(list, item);
            Py_DECREF(item);
        }
        if (rows_per_chunk < 1) rows_per_chunk = 1;
        PyObject *written[2];
        for (int wanted = 0; wanted < 2; wanted++) {
            with_vectors(wanted);
            PyObject *args = Py_BuildValue("(ONNiLL)", list, view(packings, 40 * n), view(frequencies, 512 * n), lanes,
                                           rows_per_chunk, chunk);
            written[wanted] = py_rans_encode(NULL, args);
            Py_DECREF(args);
            must(written[wanted] != NULL, "the encoder refuses what it is for");
        }
        Py_DECREF(list);
        size = (size_t)PyBytes_Size(written[0]);
        must(PyBytes_Size(written[1]) == (Py_ssize_t)size &&
             !memcmp(PyBytes_AsString(written[0]), PyBytes_AsString(written[1]), size), "the encoders differ");
        uint64_t changes = number(1, 4), cut = number(1, 16);
        if (cut > 4 || cut > size) cut = 0;
        size -= cut;
        data = block(size);
        memcpy(data, PyBytes_AsString(written[0]), size);
        Py_DECREF(written[0]);
        Py_DECREF(written[1]);
        int whole = !cut;
        for (uint64_t k = 0; k < changes && size; k++) {
            uint8_t *at = data + number(2, size), change = (uint8_t)number(1, 256);
            *at ^= change;
            whole = whole && !change;
        }
        if (!whole) encoded = 0;
    } else
        data = taken(size = input_left);
    long status[2];
    uint8_t *out[2][4] = {{NULL}};
    for (int wanted = 0; wanted < 2; wanted++) {
        PyObject *list = PyList_New(0);
        for (uint64_t k = 0; k < n; k++) {
            size_t room = lengths[k] > 0 ? (size_t)lengths[k] - (kind == 38) : 0; /* now and then too little */
            out[wanted][k] = block(room);
            PyObject *item = view(out[wanted][k], room);
            PyList_Append(list, item);
            Py_DECREF(item);
        }
        with_vectors(wanted);
        status[wanted] = call(py_rans_decode, Py_BuildValue("(NNNiLLN)", view(data, size), view(lengths, 8 * n),
                                                            view(frequencies, 512 * n), lanes, rows_per_chunk, chunk,
                                                            list));
    }
    must(status[0] == status[1], "the decoders differ");
    if (status[0] == RANS_OK || status[0] == RANS_LEFT)
        for (uint64_t k = 0; k < n; k++)
            must(!memcmp(out[0][k], out[1][k], (size_t)lengths[k]), "the decoders find different symbols");
    if (!encoded) return;
    must(status[0] == RANS_OK, "what was encoded is refused");
    if (rows > (uint64_t)rows_per_chunk || chunk) return;
    for (uint64_t k = 0; k < n; k++)
        must(!memcmp(out[0][k], symbols[k], (size_t)lengths[k]), "what was encoded comes back changed");
}

static void huffman(void) {
    size_t n = number(2, 3000), segments = number(1, 16), at = 0;
    long long per_segment = (long long)number(2, 3000);
    if (per_segment && number(1, 8)) segments = (n + (size_t)per_segment - 1) / (size_t)per_segment;
    if (segments > 1000) return;
    int64_t *sizes = block(8 * segments);
    uint8_t *symbol_of = block(1 << MAX_LENGTH), *length_of = block(1 << MAX_LENGTH);
    int most = 1 + (int)number(1, MAX_LENGTH);
    while (at < 1 << MAX_LENGTH) {
        uint8_t symbol = (uint8_t)number(1, 256), length = (uint8_t)(1 + number(1, (uint64_t)most));
        for (size_t i = 0; i < (size_t)1 << (MAX_LENGTH - length) && at < 1 << MAX_LENGTH; i++, at++)
            symbol_of[at] = symbol, length_of[at] = length;
    }
    uint64_t exact = number(1, 4), total = 0;
    for (size_t k = 0; k < segments; k++) {
        sizes[k] = (int64_t)number(exact ? 1 : 2, 1 << 12) - !exact;
        total += sizes[k] > 0 ? (uint64_t)sizes[k] : 0;
    }
    size_t size = exact ? total : input_left;
    call(py_huffman_decode, Py_BuildValue("(NNNNLN)", view(taken(size), size), view(sizes, 8 * segments),
                                          view(symbol_of, 1 << MAX_LENGTH), view(length_of, 1 << MAX_LENGTH),
                                          per_segment, view(block(n), n)));
}

static void sparse(void) {
    size_t count = number(2, 1000), planes, packed;
    int shift = (int)number(1, 43) - 1, factor = (int)number(1, 10), alphabet = (int)number(2, 259) , mode;
    long long levels = (long long)number(2, 1000), entries = (long long)number(2, 1 << 14);
    mode = (int)number(1, 4);
    if (mode == CHECK) entries += (long long)number(6, (uint64_t)1 << 48);
    planes = (size_t)((levels + 7) / 8) * (size_t)(shift > 0 ? shift : 0);
    packed = (size_t)((levels + factor) / (factor ? factor : 1));
    size_t item = mode == SYMBOLS ? 1 : 4, room = (size_t)entries * item, values = (size_t)alphabet * item;
    uint64_t short_by = number(1, 8);
    if (mode == CHECK) room = values = 0;
    if (short_by == 1 && planes) planes--;
    if (short_by == 2 && packed) packed--;
    if (short_by == 3 && room) room--;
    if (short_by == 4 && values) values--;
    uint8_t *tokens = taken(count), *first;
    for (size_t i = 0; i < count; i++) tokens[i] %= number(1, 2) ? TOKENS : 4;
    first = block(values);
    for (size_t i = 0; i < values; i++) first[i] = (uint8_t)(i % 61);
    call(py_place, Py_BuildValue("(NNiNiiLLiNN)", view(tokens, count), view(taken(planes), planes), shift,
                                 view(taken(packed), packed), factor, alphabet, levels, entries, mode,
                                 view(first, values), view(block(room), room)));
}

static void dense(void) {
    int factor = (int)number(1, 10), add = (int)number(1, 2);
    size_t alphabet = number(2, 258), n = number(2, 3000);
    long long start = (long long)number(2, 3000);
    size_t packed = factor ? ((size_t)start + n + (size_t)factor - 1) / (size_t)factor : 1;
    if (number(1, 8) == 1 && packed) packed--;
    float *values = block(4 * alphabet);
    for (size_t i = 0; i < alphabet; i++) values[i] = (float)((int)i - 100) / 3;
    uint8_t *data = taken(packed);
    int64_t digits[4] = {factor, start, 0, (int64_t)alphabet}, *run = block(24);
    run[1] = (int64_t)number(2, n + 1), run[2] = (int64_t)n; /* of tensor 0 */
    float *out[2];
    long status[2];
    for (int wanted = 0; wanted < 2; wanted++) {
        out[wanted] = block(4 * n);
        with_vectors(wanted);
        status[wanted] = call(py_dequantize, Py_BuildValue("([N]NNN[N]i)", view(data, packed), view(digits, 32),
                                                           view(values, 4 * alphabet), view(run, 24),
                                                           view(out[wanted], 4 * n), add));
    }
    must(status[0] == status[1] && !memcmp(out[0], out[1], 4 * n), "values of symbols differ");
}

/* Frequencies of a fitted table sum to 2^14, and so do those of packed symbols. */
static void tables(void) {
    int shape = (int)number(1, 256), factor = (int)number(1, 9), counted = (int)number(1, 2);
    uint64_t code = 32 + number(2, 65503 - 32 + 1), share = number(2, 1 << 15);
    size_t m = number(1, 130);
    double edge = 0, *edges = block(8 * m), step = ldexp(1.0, (int)number(1, 240) - 120);
    uint8_t *fit = block(3);
    fit[0] = (uint8_t)shape, fit[1] = (uint8_t)code, fit[2] = (uint8_t)(code >> 8);
    for (size_t i = 0; i < m; i++) edges[i] = edge += step * (double)(1 + number(1, 255));
    PyObject *args = Py_BuildValue("(NNK)", view(fit, 3), view(edges, 8 * m), (unsigned long long)share);
    PyObject *single = py_fitted_frequencies(NULL, args);
    Py_DECREF(args);
    if (!single) {
        must(m < 1 || m > 127 || share > TOTAL - 2 * m, "a table is refused for no reason");
        PyErr_Clear();
        return;
    }
    int64_t *frequencies = block(8 * (2 * m + 1)), sum = 0;
    memcpy(frequencies, PyBytes_AsString(single), 8 * (2 * m + 1));
    Py_DECREF(single);
    for (size_t i = 0; i <= 2 * m; i++) {
        must(frequencies[i] > 0, "a level has no frequency");
        sum += frequencies[i];
    }
    must(sum == TOTAL, "the frequencies do not sum to 2^14");
    if (counted) { /* those of a counted table may be 0 */
        size_t from = number(1, 2 * m + 1), to = number(1, 2 * m + 1);
        frequencies[to] += from != to ? frequencies[from] : 0;
        if (from != to) frequencies[from] = 0;
    }
    args = Py_BuildValue("(Ni)", view(frequencies, 8 * (2 * m + 1)), factor);
    PyObject *packed = py_packed_frequencies(NULL, args);
    Py_DECREF(args);
    if (!packed) {
        PyErr_Clear();
        return;
    }
    sum = 0;
    for (Py_ssize_t i = 0; i < PyBytes_Size(packed) / 8; i++) {
        int64_t f;
        memcpy(&f, PyBytes_AsString(packed) + 8 * i, 8);
        must(f >= 0, "a frequency is negative");
        sum += f;
    }
    Py_DECREF(packed);
    must(sum == TOTAL, "the packed frequencies do not sum to 2^14");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static void (*const targets[])(void) = {rans, huffman, sparse, dense, tables};
    if (!Py_IsInitialized()) {
        Py_Initialize();
        Py_XDECREF(PyInit__kernels());
    }
    input = data;
    input_left = size;
    targets[number(1, 5)]();
    for (; block_count; block_count--) free(blocks[block_count - 1]);
    return 0;
}

#ifdef REPLAY
static PyObject *py_replay(PyObject *self, PyObject *args) {
    Py_buffer data;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*", &data)) return NULL;
    LLVMFuzzerTestOneInput(data.buf, (size_t)data.len);
    PyBuffer_Release(&data);
    Py_RETURN_NONE;
}

static PyMethodDef replay_methods[] = {{"replay", py_replay, METH_VARARGS, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef replay_module = {PyModuleDef_HEAD_INIT, "loops", NULL, 0, replay_methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_loops(void) {
    Py_XDECREF(PyInit__kernels());
    return PyModule_Create(&replay_module);
}
#endif
