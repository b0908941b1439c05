/* The hot loops of flwr_co3. Each has a twin in numpy that writes the same bytes: the Python function that calls it.
 *
 * Loops over tensors are plain C on vectors of 8 floats (GCC's and clang's vector extension), compiled twice: for the
 * baseline of the platform (SSE2, NEON, or none) and for AVX2, chosen at run time. Only the rANS decoder and two
 * look-ups are written in AVX2 intrinsics. Python hands over contiguous, aligned arrays; all that a frame says is
 * checked here or before. Floating-point results that reach a frame must not depend on the machine: no fused
 * multiply-add (-ffp-contract=off), and sums in a fixed order.
 */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if !defined(__GNUC__)
#error "flwr_co3's kernels need GCC's vector extension: build with GCC or clang, or go without"
#endif
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "flwr_co3's kernels are for little-endian machines; others use numpy"
#endif

#define INLINE static inline __attribute__((always_inline))
#if defined(__x86_64__)
#include <immintrin.h>
#define HAVE_AVX2 1
#define AVX2 __attribute__((target("avx2,popcnt")))
#endif

enum { PRECISION = 14, TOTAL = 1 << PRECISION, LOWER = 1 << 16, LANES = 16, TOKENS = 64, ESCAPE = TOKENS - 1 };

static int wide;     /* whether AVX2 is there and wanted */

typedef float v8f __attribute__((vector_size(32)));
typedef int32_t v8i __attribute__((vector_size(32)));
typedef double v4d __attribute__((vector_size(32)));
typedef double v8d __attribute__((vector_size(64)));

INLINE v8f load8(const float *p) { v8f v; memcpy(&v, p, 32); return v; }
INLINE v8i load8i(const int32_t *p) { v8i v; memcpy(&v, p, 32); return v; }
INLINE void store8(float *p, v8f v) { memcpy(p, &v, 32); }
INLINE void store8i(int32_t *p, v8i v) { memcpy(p, &v, 32); }
/* All 8 at once, and kept as two halves: GCC takes 4 floats to doubles in pieces, and has 8 doubles in memory. */
INLINE void widen8(v8f v, v4d out[2]) { v8d eight = __builtin_convertvector(v, v8d); memcpy(out, &eight, 64); }
/* One by one: GCC knows the instruction in that form alone. */
INLINE v8i max8(v8i a, v8i b) { for (int k = 0; k < 8; k++) a[k] = a[k] > b[k] ? a[k] : b[k]; return a; }
INLINE v8i min8(v8i a, v8i b) { for (int k = 0; k < 8; k++) a[k] = a[k] < b[k] ? a[k] : b[k]; return a; }
INLINE uint16_t load16(const uint8_t *p) { uint16_t v; memcpy(&v, p, 2); return v; }
INLINE uint32_t load32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return v; }

/* -- buffers from Python ------------------------------------------------------------------------------------------ */

typedef struct {
    Py_ssize_t count;
    Py_buffer *views; /* obj is NULL where the list has None */
} Buffers;

static void release(Buffers *b) {
    for (Py_ssize_t i = 0; i < b->count; i++)
        if (b->views[i].obj) PyBuffer_Release(&b->views[i]);
    PyMem_Free(b->views);
    b->views = NULL;
    b->count = 0;
}

/* Views of a list of arrays; None in it, or instead of it, is no array. */
static int acquire(PyObject *list, int flags, Buffers *b) {
    b->count = 0;
    b->views = NULL;
    if (list == Py_None) return 0;
    if (!PyList_Check(list)) {
        PyErr_SetString(PyExc_ValueError, "Arrays come in a list.");
        return -1;
    }
    Py_ssize_t n = PyList_Size(list);
    b->views = PyMem_Calloc(n ? n : 1, sizeof(Py_buffer));
    if (!b->views) { PyErr_NoMemory(); return -1; }
    for (; b->count < n; b->count++) {
        PyObject *item = PyList_GetItem(list, b->count);
        if (item != Py_None && PyObject_GetBuffer(item, &b->views[b->count], flags) < 0) {
            b->views[b->count].obj = NULL;
            release(b);
            return -1;
        }
    }
    return 0;
}

INLINE void *data_of(const Buffers *b, Py_ssize_t i) { return i < b->count ? b->views[i].buf : NULL; }

static int too_short(const char *what) {
    PyErr_Format(PyExc_ValueError, "The %s is shorter than the work it is for.", what);
    return -1;
}

/* -- a run of a tensor, and its memory ---------------------------------------------------------------------------- */

typedef struct {
    const float *update, *error; /* error is NULL where there is no memory */
    float decay;
} Source;

typedef struct {
    int64_t tensor, start, stop;
} Segment;

/* What is to be sent: the update and the decayed memory. */
INLINE v8f compensated8(Source s, int64_t i) {
    v8f v = load8(s.update + i);
    if (s.error) v = load8(s.error + i) * s.decay + v;
    return v;
}

INLINE float compensated1(Source s, int64_t i) {
    return s.error ? s.error[i] * s.decay + s.update[i] : s.update[i];
}

INLINE int check_segments(const Segment *segments, Py_ssize_t count, const Buffers *updates, const Buffers *errors) {
    for (Py_ssize_t k = 0; k < count; k++) {
        Segment s = segments[k];
        if (s.tensor < 0 || s.tensor >= updates->count || s.start < 0 || s.stop < s.start ||
            s.stop > updates->views[s.tensor].len / 4)
            return too_short("list of entries");
        if (errors && data_of(errors, s.tensor) && errors->views[s.tensor].len < updates->views[s.tensor].len)
            return too_short("memory");
    }
    return 0;
}

/* -- moments ------------------------------------------------------------------------------------------------------ */

enum { BIN_SHIFT = 19, BINS = 1 << 12, BLOCK = 512, WIDE = 32 };

typedef struct {
    double sum, square;
    uint32_t peak; /* bits of the largest magnitude; that of NaN is above infinity's */
    int64_t nonzero;
} Moments;

/* Sums run in 16 lanes, entry i in lane i mod 16, and the lanes are added up from the first to the last. */
INLINE Moments moments_body(Source s, Segment run, uint32_t *bins) {
    v4d sum[4] = {{0}}, square[4] = {{0}};
    v8i peak = {0}, zeros = {0};
    int32_t block[BLOCK];
    int64_t zero_count = 0, n = run.stop - run.start, i = 0;
    uint32_t odd[BINS]; /* neighbours are counted apart: one counter at a time would wait for itself */
    if (bins) memset(odd, 0, sizeof odd);
    while (i + LANES <= n) {
        int64_t end = i + BLOCK < n ? i + BLOCK : n, first = i;
        for (; i + LANES <= end; i += LANES) {
            for (int h = 0; h < 2; h++) {
                v8i bits = (v8i)compensated8(s, run.start + i + 8 * h) & 0x7fffffff;
                peak = max8(peak, bits);
                zeros -= bits == 0;
                v4d half[2];
                widen8((v8f)bits, half);
                for (int k = 0; k < 2; k++) {
                    sum[2 * h + k] += half[k];
                    square[2 * h + k] += half[k] * half[k];
                }
                if (bins) store8i(block + (i - first) + 8 * h, bits);
            }
        }
        for (int k = 0; k < 8; k++) zero_count += zeros[k];
        zeros ^= zeros;
        if (bins)
            for (int64_t k = 0; k < i - first; k += 2) {
                bins[(uint32_t)block[k] >> BIN_SHIFT]++;
                odd[(uint32_t)block[k + 1] >> BIN_SHIFT]++;
            }
    }
    double sums[LANES], squares[LANES];
    memcpy(sums, sum, sizeof sums);
    memcpy(squares, square, sizeof squares);
    Moments m = {0, 0, 0, 0};
    for (int k = 0; k < 8; k++) m.peak = (uint32_t)peak[k] > m.peak ? (uint32_t)peak[k] : m.peak;
    for (int k = 0; i < n; i++, k++) {
        float v = compensated1(s, run.start + i);
        uint32_t bits;
        memcpy(&bits, &v, 4);
        bits &= 0x7fffffff;
        double a = fabs((double)v);
        sums[k] += a;
        squares[k] += a * a;
        zero_count += !bits;
        if (bits > m.peak) m.peak = bits;
        if (bins) bins[bits >> BIN_SHIFT]++;
    }
    for (int k = 0; k < LANES; k++) m.sum += sums[k], m.square += squares[k];
    m.nonzero = n - zero_count;
    if (bins)
        for (int k = 0; k < BINS; k++) bins[k] += odd[k];
    return m;
}

static Moments moments_plain(Source s, Segment run, uint32_t *bins) { return moments_body(s, run, bins); }
#ifdef HAVE_AVX2
AVX2 static Moments moments_avx2(Source s, Segment run, uint32_t *bins) {
    return moments_body(s, run, bins);
}
#else
#define moments_avx2 moments_plain
#endif

PyDoc_STRVAR(moments_doc, "moments(updates, errors, decay, segments, out, rows, bins)\n\n"
"Peak, sum of magnitudes, sum of squares and nonzero entries of each segment into float64 rows of 4. Unless bins is\n"
"None, magnitudes are counted by the upper 12 bits after the sign in bins[rows[tensor]], uint32 of (.., 4096).");
static PyObject *py_moments(PyObject *self, PyObject *args) {
    PyObject *updates_list, *errors_list, *bins_object;
    Py_buffer segments, out, rows, bins = {0};
    double decay;
    (void)self;
    if (!PyArg_ParseTuple(args, "OOdy*w*y*O", &updates_list, &errors_list, &decay, &segments, &out, &rows,
                          &bins_object))
        return NULL;
    Buffers updates = {0}, errors = {0};
    Py_ssize_t count = segments.len / sizeof(Segment);
    const Segment *runs = segments.buf;
    int ok = acquire(updates_list, PyBUF_SIMPLE, &updates) == 0 && acquire(errors_list, PyBUF_SIMPLE, &errors) == 0 &&
             check_segments(runs, count, &updates, &errors) == 0 &&
             (bins_object == Py_None || PyObject_GetBuffer(bins_object, &bins, PyBUF_WRITABLE) == 0);
    if (ok && (out.len < count * 32 || (bins.obj && rows.len < updates.count * 8))) ok = !too_short("result");
    for (Py_ssize_t k = 0; ok && bins.obj && k < count; k++) {
        int64_t row = ((const int64_t *)rows.buf)[runs[k].tensor];
        if (row < 0 || row >= bins.len / (BINS * 4)) ok = !too_short("room for counts");
    }
    if (ok) {
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t k = 0; k < count; k++) {
            Source s = {data_of(&updates, runs[k].tensor), data_of(&errors, runs[k].tensor), (float)decay};
            uint32_t *row = bins.obj ? (uint32_t *)bins.buf + ((const int64_t *)rows.buf)[runs[k].tensor] * BINS : NULL;
            Moments m = wide ? moments_avx2(s, runs[k], row) : moments_plain(s, runs[k], row);
            float peak;
            memcpy(&peak, &m.peak, 4);
            double *result = (double *)out.buf + 4 * k;
            result[0] = peak, result[1] = m.sum, result[2] = m.square, result[3] = (double)m.nonzero;
        }
        Py_END_ALLOW_THREADS
    }
    if (bins.obj) PyBuffer_Release(&bins);
    release(&updates);
    release(&errors);
    PyBuffer_Release(&segments);
    PyBuffer_Release(&out);
    PyBuffer_Release(&rows);
    if (!ok) return NULL;
    Py_RETURN_NONE;
}

/* -- conversion --------------------------------------------------------------------------------------------------- */

typedef struct {
    int32_t mantissa, bias, zero; /* of the format; zero is the symbol of level 0 */
} Format;

/* values[|index|] with the sign of the index. */
INLINE void look_up(const int32_t *index, const float *values, int64_t n, float *out) {
    for (int64_t i = 0; i < n; i++) {
        float value = values[index[i] < 0 ? -index[i] : index[i]];
        out[i] = index[i] < 0 ? -value : value;
    }
}

/* Adds how often each of n symbols occurs, a multiple of 8. */
static void count_plain(const uint8_t *symbols, int64_t n, uint32_t histogram[4][256]) {
    for (int64_t i = 0; i < n; i += 8) {
        uint64_t eight;
        memcpy(&eight, symbols + i, 8);
        for (int k = 0; k < 8; k++) histogram[k & 3][eight >> (8 * k) & 255]++;
    }
}

#ifdef HAVE_AVX2
/* The same; n is a multiple of WIDE and at most BLOCK. A small alphabet is counted by comparing all symbols with
 * each of it. */
AVX2 static void count_avx2(const uint8_t *symbols, int64_t n, int levels, uint32_t histogram[4][256]) {
    if (levels > 16) {
        count_plain(symbols, n, histogram);
        return;
    }
    const __m256i *block = (const __m256i *)symbols;
    uint32_t rest = (uint32_t)n;
    for (int level = 1; level < levels; level++) {
        const __m256i wanted = _mm256_set1_epi8((char)level);
        __m256i found = _mm256_setzero_si256();
        for (int64_t i = 0; i < n / WIDE; i++)
            found = _mm256_sub_epi8(found, _mm256_cmpeq_epi8(_mm256_loadu_si256(block + i), wanted));
        __m256i four = _mm256_sad_epu8(found, _mm256_setzero_si256());
        __m128i two = _mm_add_epi64(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
        uint32_t count = (uint32_t)(_mm_extract_epi64(two, 0) + _mm_extract_epi64(two, 1));
        histogram[0][level] += count;
        rest -= count;
    }
    histogram[0][0] += rest;
}
#endif

/* A normal number, without a call into the C library for each block. */
INLINE float power_of_2(int32_t exponent) {
    const int32_t bits = (exponent + 127) << 23;
    float power;
    memcpy(&power, &bits, 4);
    return power;
}

/* Signed level indices of n values, a multiple of 8, times the factor; see FloatFormat._round. With edges, what is below
 * its level's edge goes to the level below. */
INLINE void round_block(const float *v, int64_t n, float factor, Format f, const float *edges, const int32_t *nudge,
                        int32_t *index) {
    const int32_t dropped = 23 - f.mantissa, below = 1 << dropped;
    const float to_index = power_of_2(f.mantissa - 1 + f.bias), to_share = 1.0f / (float)below;
    const int32_t smallest_normal = (128 - f.bias) << 23, offset = smallest_normal >> dropped;
    const v8i zero = {0}, smallest = zero + smallest_normal, largest = zero + f.zero;
    for (int64_t i = 0; i < n; i += 8) {
        v8i bits = (v8i)(load8(v + i) * factor), magnitude = bits & 0x7fffffff, sign = bits >> 31;
        v8i add = nudge ? load8i(nudge + i) : zero + (below >> 1);
        v8i normal = (max8(magnitude, smallest) + add) >> dropped;
        v8f subnormal = (v8f)min8(magnitude, smallest) * to_index;
        subnormal += __builtin_convertvector(add, v8f) * to_share;
        v8i level = min8(__builtin_convertvector(subnormal, v8i) + normal - offset, largest);
        if (edges) {
            v8f edge;
            for (int k = 0; k < 8; k++) edge[k] = edges[level[k]];
            level += (v8f)magnitude < edge;
        }
        store8i(index + i, (level ^ sign) - sign);
    }
}

typedef struct {
    Source source;
    float factor;         /* what values are multiplied by before rounding */
    const float *values;  /* what each magnitude decodes to */
    const float *edges;   /* where each magnitude begins, as scaled values; or NULL: midway from the one below */
    const int32_t *nudge; /* of stochastic rounding, or NULL */
    float *kept;          /* where the new memory goes, or NULL */
    uint8_t *symbols;
    float unit;           /* what errors are multiplied by before they are squared */
    double *square;       /* sum of squared errors, in that unit */
    uint32_t (*histogram)[256];
} Conversion;

#ifdef HAVE_AVX2
/* Numbers from a table, one by one: faster than the instruction for it. */
__attribute__((always_inline, target("avx2,popcnt"))) static inline __m256 gather_avx2(const float *table, __m256i at) {
    int32_t index[8];
    _mm256_storeu_si256((__m256i *)index, at);
    return _mm256_setr_ps(table[index[0]], table[index[1]], table[index[2]], table[index[3]], table[index[4]],
                          table[index[5]], table[index[6]], table[index[7]]);
}

/* n entries from `start` on, a multiple of WIDE and at most BLOCK, as convert_block does them, but in one go. The
 * flags are constants where it is inlined. */
__attribute__((always_inline, target("avx2,popcnt"))) static inline void
convert_block_avx2(const Conversion *c, Format f, int64_t start, int64_t n, const int32_t *nudge, uint8_t *symbols,
                   const int few, const int add_error, const int keep, const int decide) {
    const int32_t dropped = 23 - f.mantissa, half = 1 << (dropped - 1);
    const __m256 factor = _mm256_set1_ps(c->factor), decay = _mm256_set1_ps(c->source.decay);
    const __m256 unit = _mm256_set1_ps(c->unit), one_half = _mm256_set1_ps(0.5f);
    const __m256 to_index = _mm256_set1_ps(power_of_2(f.mantissa - 1 + f.bias));
    const __m256 to_share = _mm256_set1_ps(0.5f / (float)half);
    const __m256i smallest = _mm256_set1_epi32((128 - f.bias) << 23);
    const __m256i largest = _mm256_set1_epi32(f.zero), no_sign = _mm256_set1_epi32(0x7fffffff);
    const __m256i rounding = _mm256_sub_epi32(_mm256_set1_epi32(half), smallest);
    const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7), zero = _mm256_set1_epi8((char)f.zero);
    const __m128i shift = _mm_cvtsi32_si128(dropped);
    float padded[8] = {0};
    memcpy(padded, c->values, (few ? f.zero + 1 : 8) * sizeof(float));
    const __m256 table = _mm256_loadu_ps(padded);
    if (decide) memcpy(padded, c->edges, (few ? f.zero + 1 : 8) * sizeof(float));
    const __m256 edges = _mm256_loadu_ps(padded);
    const float *update = c->source.update, *error = c->source.error; /* else they are read again after each store */
    float *kept = c->kept;
    __m256 squares = _mm256_setzero_ps();
    for (int64_t i = 0; i < n; i += WIDE) {
        __m256i levels[4];
        for (int k = 0; k < 4; k++) {
            const int64_t at = start + i + 8 * k;
            __m256 v = _mm256_loadu_ps(update + at);
            if (add_error) v = _mm256_add_ps(_mm256_mul_ps(_mm256_loadu_ps(error + at), decay), v);
            __m256i bits = _mm256_castps_si256(_mm256_mul_ps(v, factor)), magnitude = _mm256_and_si256(bits, no_sign);
            __m256i add = rounding;
            __m256 share = one_half;
            if (nudge) {
                __m256i drawn = _mm256_loadu_si256((const __m256i *)(nudge + i + 8 * k));
                add = _mm256_sub_epi32(drawn, smallest);
                share = _mm256_mul_ps(_mm256_cvtepi32_ps(drawn), to_share);
            }
            __m256i normal = _mm256_srl_epi32(_mm256_add_epi32(_mm256_max_epi32(magnitude, smallest), add), shift);
            __m256 subnormal = _mm256_mul_ps(_mm256_castsi256_ps(_mm256_min_epi32(magnitude, smallest)), to_index);
            __m256i level = _mm256_add_epi32(_mm256_cvttps_epi32(_mm256_add_ps(subnormal, share)), normal);
            level = _mm256_min_epi32(level, largest);
            if (decide) {
                __m256 edge = few ? _mm256_permutevar8x32_ps(edges, level) : gather_avx2(c->edges, level);
                __m256 below = _mm256_cmp_ps(_mm256_castsi256_ps(magnitude), edge, _CMP_LT_OQ);
                level = _mm256_add_epi32(level, _mm256_castps_si256(below));
            }
            __m256 value = few ? _mm256_permutevar8x32_ps(table, level) : gather_avx2(c->values, level);
            levels[k] = _mm256_sign_epi32(level, bits);
            value = _mm256_or_ps(value, _mm256_castsi256_ps(_mm256_andnot_si256(no_sign, levels[k])));
            __m256 left = _mm256_sub_ps(v, value);
            if (keep) _mm256_storeu_ps(kept + at, left);
            left = _mm256_mul_ps(left, unit);
            squares = _mm256_add_ps(squares, _mm256_mul_ps(left, left));
        }
        __m256i low = _mm256_packs_epi32(levels[0], levels[1]), high = _mm256_packs_epi32(levels[2], levels[3]);
        __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), in_order);
        _mm256_storeu_si256((__m256i *)(symbols + i), _mm256_add_epi8(bytes, zero));
    }
    float lanes[8];
    _mm256_storeu_ps(lanes, squares);
    for (int k = 0; k < 8; k++) *c->square += lanes[k];
    count_avx2(symbols, n, 2 * f.zero + 1, c->histogram);
}

AVX2 static void convert_wide_block(const Conversion *c, Format f, int64_t start, int64_t n, const int32_t *nudge,
                                    uint8_t *symbols) {
    const int few = f.zero < 8, error = c->source.error != NULL, keep = c->kept != NULL;
    if (c->edges && few) convert_block_avx2(c, f, start, n, NULL, symbols, 1, error, keep, 1);
    else if (c->edges) convert_block_avx2(c, f, start, n, NULL, symbols, 0, error, keep, 1);
    else if (nudge || error != keep) convert_block_avx2(c, f, start, n, nudge, symbols, few, error, keep, 0);
    else if (few && keep) convert_block_avx2(c, f, start, n, NULL, symbols, 1, 1, 1, 0);
    else if (few) convert_block_avx2(c, f, start, n, NULL, symbols, 1, 0, 0, 0);
    else if (keep) convert_block_avx2(c, f, start, n, NULL, symbols, 0, 1, 1, 0);
    else convert_block_avx2(c, f, start, n, NULL, symbols, 0, 0, 0, 0);
}
#endif

/* A block of n entries from `start` on. */
INLINE void convert_block(const Conversion *c, Format f, int64_t start, int64_t n, const int32_t *nudge,
                          uint8_t *symbols) {
    float v[BLOCK], value[BLOCK];
    int32_t index[BLOCK];
    const int64_t whole = n & ~(int64_t)7, room = (n + 7) & ~(int64_t)7;
    for (int64_t i = 0; i < whole; i += 8) store8(v + i, compensated8(c->source, start + i));
    for (int64_t i = whole; i < room; i++) v[i] = i < n ? compensated1(c->source, start + i) : 0;
    round_block(v, room, c->factor, f, c->edges, nudge, index);
    look_up(index, c->values, n, value);
    for (int64_t i = 0; i < n; i++) symbols[i] = (uint8_t)(index[i] + f.zero);
    double square = 0;
    for (int64_t i = 0; i < n; i++) {
        float left = v[i] - value[i];
        if (c->kept) c->kept[start + i] = left;
        square += (double)(left * c->unit) * (left * c->unit);
    }
    *c->square += square;
    count_plain(symbols, whole, c->histogram);
    for (int64_t i = whole; i < n; i++) c->histogram[0][symbols[i]]++;
}

static void convert_segment(Conversion c, Format f, Segment run, uint32_t *counts) {
    int32_t padded[BLOCK];
    uint32_t histogram[4][256] = {{0}};
    c.histogram = histogram;
    *c.square = 0;
    int64_t start = run.start, n;
#ifdef HAVE_AVX2
    for (; wide && run.stop - start >= WIDE; start += n) {
        n = run.stop - start < BLOCK ? (run.stop - start) & ~(int64_t)(WIDE - 1) : BLOCK;
        convert_wide_block(&c, f, start, n, c.nudge ? c.nudge + (start - run.start) : NULL, c.symbols + start);
    }
#endif
    for (; start < run.stop; start += n) {
        n = run.stop - start < BLOCK ? run.stop - start : BLOCK;
        const int32_t *nudge = c.nudge ? c.nudge + (start - run.start) : NULL;
        if (nudge && n < BLOCK) {
            memset(padded, 0, sizeof padded);
            memcpy(padded, nudge, n * 4);
            nudge = padded;
        }
        convert_block(&c, f, start, n, nudge, c.symbols + start);
    }
    for (int k = 0; k <= 2 * f.zero; k++)
        counts[k] = histogram[0][k] + histogram[1][k] + histogram[2][k] + histogram[3][k];
}

PyDoc_STRVAR(convert_doc,
"convert(updates, errors, decay, segments, factors, units, values, format, nudge, symbols, starts, kept, counts,\n"
"        squares, edges)\n\n"
"Level symbols of each segment at symbols[starts[tensor] + entry], how often each occurs (uint32 rows of 2 zero + 1),\n"
"the squared error (float64, the error multiplied by the tensor's unit) and, where kept is a list, the new memory.\n"
"factors, units: float32, one a tensor. values, edges: float32 rows of zero + 1; edges\n"
"may be None. format: (mantissa, bias, zero). nudge: int32 of the only segment's entries, or None.");
static PyObject *py_convert(PyObject *self, PyObject *args) {
    PyObject *updates_list, *errors_list, *kept_list, *edges_object, *nudge_object;
    Py_buffer segments, factors, units, values, symbols, starts, counts, squares, edges = {0}, nudge = {0};
    double decay;
    Format f;
    (void)self;
    if (!PyArg_ParseTuple(args, "OOdy*y*y*y*(iii)Ow*y*Ow*w*O", &updates_list, &errors_list, &decay, &segments, &factors,
                          &units, &values, &f.mantissa, &f.bias, &f.zero, &nudge_object, &symbols, &starts, &kept_list,
                          &counts, &squares, &edges_object))
        return NULL;
    Buffers updates = {0}, errors = {0}, kept = {0};
    Py_ssize_t count = segments.len / sizeof(Segment), levels = 2 * f.zero + 1;
    const Segment *runs = segments.buf;
    const int64_t *at = starts.buf;
    int ok = acquire(updates_list, PyBUF_SIMPLE, &updates) == 0 && acquire(errors_list, PyBUF_SIMPLE, &errors) == 0 &&
             acquire(kept_list, PyBUF_WRITABLE, &kept) == 0 &&
             check_segments(runs, count, &updates, &errors) == 0 && check_segments(runs, count, &updates, &kept) == 0 &&
             (edges_object == Py_None || PyObject_GetBuffer(edges_object, &edges, PyBUF_SIMPLE) == 0) &&
             (nudge_object == Py_None || PyObject_GetBuffer(nudge_object, &nudge, PyBUF_SIMPLE) == 0);
    Py_ssize_t tensors = updates.count;
    /* Within these bounds no level lies below 0 or above f.zero; see FloatFormat. */
    if (ok && (f.mantissa < 0 || f.mantissa > 10 || f.bias < -100 || f.bias > 121 - f.mantissa)) {
        PyErr_SetString(PyExc_ValueError, "There is no such number format.");
        ok = 0;
    }
    if (ok && (f.zero < 1 || f.zero > 127 || factors.len < tensors * 4 ||
               units.len < tensors * 4 || starts.len < tensors * 8 ||
               values.len < tensors * (f.zero + 1) * 4 || (edges.obj && edges.len < values.len) || counts.len < count * levels * 4 || squares.len < count * 8))
        ok = !too_short("table or result");
    for (Py_ssize_t k = 0; ok && k < count; k++)
        if (at[runs[k].tensor] < 0 || at[runs[k].tensor] > symbols.len - runs[k].stop ||
            (nudge.obj && nudge.len / 4 < runs[k].stop - runs[k].start))
            ok = !too_short("room for symbols");
    for (Py_ssize_t t = 0; ok && edges.obj && t < tensors; t++)
        if (!(((const float *)edges.buf)[t * (f.zero + 1)] <= 0)) {
            PyErr_SetString(PyExc_ValueError, "There is no level below 0.");
            ok = 0;
        }
    for (Py_ssize_t i = 0; ok && nudge.obj && i < nudge.len / 4; i++) {
        int32_t drawn = ((const int32_t *)nudge.buf)[i];
        if (drawn < 0 || drawn >= 1 << (23 - f.mantissa)) {
            PyErr_SetString(PyExc_ValueError, "A random number is not below the bits that are cut off.");
            ok = 0;
        }
    }
    if (ok) {
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t k = 0; k < count; k++) {
            int64_t t = runs[k].tensor;
            Conversion c = {{data_of(&updates, t), data_of(&errors, t), (float)decay},
                            ((const float *)factors.buf)[t], (const float *)values.buf + t * (f.zero + 1),
                            edges.obj ? (const float *)edges.buf + t * (f.zero + 1) : NULL, nudge.buf,
                            data_of(&kept, t), (uint8_t *)symbols.buf + at[t],
                            ((const float *)units.buf)[t], (double *)squares.buf + k, NULL};
            uint32_t *row = (uint32_t *)counts.buf + k * levels;
            convert_segment(c, f, runs[k], row);
        }
        Py_END_ALLOW_THREADS
    }
    if (edges.obj) PyBuffer_Release(&edges);
    if (nudge.obj) PyBuffer_Release(&nudge);
    release(&updates);
    release(&errors);
    release(&kept);
    PyBuffer_Release(&segments);
    PyBuffer_Release(&factors);
    PyBuffer_Release(&units);
    PyBuffer_Release(&values);
    PyBuffer_Release(&symbols);
    PyBuffer_Release(&starts);
    PyBuffer_Release(&counts);
    PyBuffer_Release(&squares);
    if (!ok) return NULL;
    Py_RETURN_NONE;
}

INLINE void keep_body(Source s, Segment run, const uint8_t *symbols, const float *values, float *kept) {
    int64_t i = run.start;
    for (; i + 8 <= run.stop; i += 8) {
        v8f value;
        for (int k = 0; k < 8; k++) value[k] = values[symbols[i + k]];
        store8(kept + i, compensated8(s, i) - value);
    }
    for (; i < run.stop; i++) kept[i] = compensated1(s, i) - values[symbols[i]];
}

/* Where the next 8 symbols are all level 0, as most are at low rates, there is nothing to look up. */
INLINE void keep_sparse_body(Source s, Segment run, const uint8_t *symbols, const float *values, uint8_t zero,
                             float *kept) {
    const uint64_t zeros = zero * 0x0101010101010101u;
    int64_t i = run.start;
    for (; i + 8 <= run.stop; i += 8) {
        uint64_t eight;
        memcpy(&eight, symbols + i, 8);
        v8f v = compensated8(s, i);
        if (eight != zeros) {
            v8f value;
            for (int k = 0; k < 8; k++) value[k] = values[symbols[i + k]];
            v -= value;
        }
        store8(kept + i, v);
    }
    for (; i < run.stop; i++) kept[i] = compensated1(s, i) - values[symbols[i]];
}

static void keep_plain(Source s, Segment run, const uint8_t *symbols, const float *values, int zero, float *kept) {
    if (zero < 0) keep_body(s, run, symbols, values, kept);
    else keep_sparse_body(s, run, symbols, values, (uint8_t)zero, kept);
}
#ifdef HAVE_AVX2
AVX2 static void keep_avx2(Source s, Segment run, const uint8_t *symbols, const float *values, int zero, float *kept) {
    if (zero < 0) keep_body(s, run, symbols, values, kept);
    else keep_sparse_body(s, run, symbols, values, (uint8_t)zero, kept);
}
#else
#define keep_avx2 keep_plain
#endif

PyDoc_STRVAR(keep_doc, "keep(updates, errors, decay, segments, values, symbols, starts, zero, kept)\n\n"
"New memory of each segment: what was to be sent less what the symbols decode to. values: float32 rows of 256.\n"
"zero: the symbol of level 0 where most are, else -1.");
static PyObject *py_keep(PyObject *self, PyObject *args) {
    PyObject *updates_list, *errors_list, *kept_list;
    Py_buffer segments, values, symbols, starts;
    double decay;
    int zero;
    (void)self;
    if (!PyArg_ParseTuple(args, "OOdy*y*y*y*iO", &updates_list, &errors_list, &decay, &segments, &values, &symbols,
                          &starts, &zero, &kept_list))
        return NULL;
    Buffers updates = {0}, errors = {0}, kept = {0};
    Py_ssize_t count = segments.len / sizeof(Segment);
    const Segment *runs = segments.buf;
    const int64_t *at = starts.buf;
    int ok = acquire(updates_list, PyBUF_SIMPLE, &updates) == 0 && acquire(errors_list, PyBUF_SIMPLE, &errors) == 0 &&
             acquire(kept_list, PyBUF_WRITABLE, &kept) == 0 &&
             check_segments(runs, count, &updates, &errors) == 0 && check_segments(runs, count, &updates, &kept) == 0;
    if (ok && (kept.count < updates.count || starts.len < updates.count * 8 || values.len < updates.count * 1024))
        ok = !too_short("table or result");
    for (Py_ssize_t k = 0; ok && k < count; k++)
        if (at[runs[k].tensor] < 0 || at[runs[k].tensor] > symbols.len - runs[k].stop || !data_of(&kept, runs[k].tensor))
            ok = !too_short("list of symbols or memories");
    if (ok) {
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t k = 0; k < count; k++) {
            int64_t t = runs[k].tensor;
            Source s = {data_of(&updates, t), data_of(&errors, t), (float)decay};
            const uint8_t *from = (const uint8_t *)symbols.buf + at[t];
            const float *table = (const float *)values.buf + t * 256;
            if (wide) keep_avx2(s, runs[k], from, table, zero, data_of(&kept, t));
            else keep_plain(s, runs[k], from, table, zero, data_of(&kept, t));
        }
        Py_END_ALLOW_THREADS
    }
    release(&updates);
    release(&errors);
    release(&kept);
    PyBuffer_Release(&segments);
    PyBuffer_Release(&values);
    PyBuffer_Release(&symbols);
    PyBuffer_Release(&starts);
    if (!ok) return NULL;
    Py_RETURN_NONE;
}

/* -- frequency tables: exact integers, and the portable arithmetic of arithmetic.py ------------------------------- */

enum { MAX_ALPHABET = 256, COST_BITS = 16, SHARE_BITS = 20 };

/* Scales integer weights to integers that sum to total; see frequencies.normalize. Returns -1 if it cannot. */
static int normalize(const int64_t *weights, int n, int64_t total, int64_t *out) {
    int64_t mass = 0, sum = 0;
    for (int i = 0; i < n; i++) {
        if (weights[i] < 0 || weights[i] >= (int64_t)1 << 41) return -1; /* two counts may share a frequency */
        mass += weights[i];
    }
    if (!mass) return -1;
    for (int i = 0; i < n; i++) {
        out[i] = (weights[i] * total + mass / 2) / mass;
        if (!out[i] && weights[i]) out[i] = 1;
        sum += out[i];
    }
    for (int64_t excess = sum - total; excess;) {
        int largest = 0;
        for (int i = 1; i < n; i++)
            if (out[i] > out[largest]) largest = i;
        int64_t step = out[largest] / 8 > 1 ? out[largest] / 8 : 1;
        if (excess < step) step = excess;
        if (out[largest] - step < 1) return -1;
        out[largest] -= step;
        excess -= step;
    }
    return 0;
}

/* Bits, in units of 2^-16, of symbols of these counts; -1 stands for infinity. log2 has 2^14 + 1 entries. */
static int64_t cost_of(const int64_t *counts, const int64_t *frequencies, int n, const int32_t *log2) {
    int64_t cost = 0;
    for (int i = 0; i < n; i++) {
        if (!counts[i]) continue;
        if (!frequencies[i]) return -1;
        cost += counts[i] * (log2[TOTAL] - log2[frequencies[i]]);
    }
    return cost;
}

typedef struct {
    uint8_t data[1024];
    int size;
    uint64_t pending;
    int width;
} BitWriter;

INLINE void put_bits(BitWriter *w, uint64_t value, int bits) {
    w->pending |= value << w->width;
    for (w->width += bits; w->width >= 8; w->width -= 8, w->pending >>= 8) w->data[w->size++] = (uint8_t)w->pending;
}

INLINE void finish_bits(BitWriter *w) {
    if (w->width) w->data[w->size++] = (uint8_t)w->pending;
    w->width = 0;
}

INLINE int bit_length(int64_t value) { return value ? 64 - __builtin_clzll((unsigned long long)value) : 0; }

/* Each value in as many bits as the rest of the sum needs; see tables._write_values. */
static int write_values(const int64_t *values, int n, int precision, BitWriter *out) {
    int64_t rest = (int64_t)1 << precision;
    int bits = 0;
    for (int i = 0; i < n - 1 && rest; i++) {
        int width = bit_length(rest);
        if (out) put_bits(out, (uint64_t)values[i], width);
        bits += width;
        rest -= values[i];
    }
    if (out) finish_bits(out);
    return (bits + 7) / 8;
}

/* Symbols by magnitude, negative before positive: of an odd alphabet the middle one first. */
static void centre_out(int n, int *order) {
    int low = (n - 1) / 2, high = n / 2, k = 0;
    if (low == high) order[k++] = low, low--, high++;
    while (k < n) order[k++] = low--, order[k++] = high++;
}

typedef struct {
    uint8_t header[1 + 1024];
    int header_size;
    int64_t frequencies[MAX_ALPHABET];
    int64_t cost; /* of the symbols, in 2^-16 bits; without the header */
} Table;

INLINE int64_t size_of(const Table *t) { return t->cost + ((int64_t)t->header_size << (3 + COST_BITS)); }

/* A counted table of one precision: its frequencies and cost; the header's size alone unless `full`. */
static int try_counted(const int64_t *counts, int n, int precision, int mirrored, const int32_t *log2, int full,
                       Table *t) {
    int64_t pairs[MAX_ALPHABET], values[MAX_ALPHABET], listed[MAX_ALPHABET];
    int size = n, used = 0, odd = n % 2, half = n / 2;
    const int64_t *weights = counts;
    if (mirrored) {
        size = odd + half;
        if (odd) pairs[0] = counts[half];
        for (int k = 0; k < half; k++) pairs[odd + k] = counts[half + odd + k] + counts[half - 1 - k];
        weights = pairs;
    }
    for (int i = 0; i < size; i++) used += weights[i] > 0;
    if (used > 1 << precision || normalize(weights, size, (int64_t)1 << precision, values) < 0) return -1;
    int shift = PRECISION - precision;
    if (mirrored) {
        if (odd) t->frequencies[half] = values[0] << shift;
        for (int k = 0; k < half; k++)
            t->frequencies[half + odd + k] = t->frequencies[half - 1 - k] = (values[odd + k] << shift) >> 1;
        memcpy(listed, values, sizeof listed);
    } else {
        int order[MAX_ALPHABET];
        centre_out(n, order);
        for (int i = 0; i < n; i++) listed[i] = values[order[i]], t->frequencies[i] = values[i] << shift;
    }
    t->cost = cost_of(counts, t->frequencies, n, log2);
    if (t->cost < 0) return -1;
    if (full) {
        BitWriter bits = {{0}, 0, 0, 0};
        write_values(listed, size, precision, &bits);
        t->header[0] = (uint8_t)(precision | (mirrored ? 0x80 : 0));
        memcpy(t->header + 1, bits.data, bits.size);
        t->header_size = 1 + bits.size;
    } else
        t->header_size = 1 + write_values(listed, size, precision, NULL);
    return 0;
}

/* Whether counts are small enough for all that is computed from them. */
INLINE int sound_counts(const int64_t *counts, int n) {
    for (int i = 0; i < n; i++)
        if (counts[i] < 0 || counts[i] >= (int64_t)1 << 40) return 0;
    return 1;
}

/* The cheapest counted table; see tables.counted. */
static int best_counted(const int64_t *counts, int n, int mirrored, const int32_t *log2, Table *best) {
    static const int precisions[] = {5, 6, 7, 8, 9, 10, 12};
    int found = -1, chosen = 0;
    int64_t least = 0;
    Table t;
    for (int m = 0; m <= mirrored; m++)
        for (int k = 0; k < 8; k++) {
            int precision = k < 7 ? precisions[k] : PRECISION - m;
            if (try_counted(counts, n, precision, m, log2, 0, &t) < 0) continue;
            if (found < 0 || size_of(&t) < least) found = m, chosen = precision, least = size_of(&t);
        }
    return found < 0 ? -1 : try_counted(counts, n, chosen, found, log2, 1, best);
}

static const double LN2 = 0.6931471805599453, END = 40.0;

static double portable_exp(double x) {
    x = x < -600.0 ? -600.0 : x > 600.0 ? 600.0 : x;
    double n = rint(x / LN2), rest = x - n * LN2, series = 1.0;
    for (int k = 16; k > 0; k--) series = 1.0 + rest * series / k;
    return ldexp(series, (int)n);
}

static double portable_log(double x) {
    int exponent;
    double m = frexp(x, &exponent);
    if (m < 0.7071067811865476) m = 2 * m, exponent--;
    double u = (m - 1) / (m + 1), square = u * u, series = 0.0;
    for (int k = 21; k > 0; k -= 2) series = series * square + 1.0 / k;
    return 2 * u * series + exponent * LN2;
}

static double portable_power(double x, double exponent) {
    return x > 0 ? portable_exp(portable_log(x) * exponent) : 0.0;
}

/* The terms fall once n is above z; those that no longer change the sum need not be added. */
static double unscaled_incomplete_gamma(double a, double z, int terms) {
    double term = 1 / a, total = term;
    for (int n = 1; n < terms; n++) {
        term *= z / (a + n);
        double next = total + term;
        if (next == total && n > z) break;
        total = next;
    }
    return portable_power(z, a) * portable_exp(-z) * total;
}

static double incomplete_gamma(double a, double z, double at_end) {
    if (z > END) return 1.0;
    if (!(z > 0)) return 0.0;
    return unscaled_incomplete_gamma(a, z, z <= 1.0 ? 20 : 160) / at_end;
}

/* Weights of cells under a generalised normal; see frequencies.gennorm_weights. */
static void gennorm_weights(double shape, double width, const double *edges, int m, int64_t *out) {
    double a = 1 / shape, at_end = unscaled_incomplete_gamma(a, END, 160);
    int64_t before = 0;
    for (int k = 0; k <= m; k++) {
        int64_t below = (int64_t)1 << 30;
        if (k < m) {
            double t = edges[k] / width;
            if (!(t < 1e300)) t = 1e300;
            below = (int64_t)floor(incomplete_gamma(a, portable_power(t, shape), at_end) * ((int64_t)1 << 30));
        }
        int64_t weight = k ? (below - before) / 2 : below;
        if (k && (below - before) < 0 && (below - before) % 2) weight--; /* floor, as in numpy */
        if (weight < 1) weight = 1;
        out[m + k] = out[m - k] = weight;
        before = below;
    }
}

/* Frequencies of a fitted table, level 0 having `share` of them unless that is 0; see tables.fitted. The fit is as it is
 * sent: a byte of its shape, two of its width. */
static int fitted_frequencies(const uint8_t *fit, const double *edges, int m, int64_t share, int64_t *out) {
    int64_t weights[MAX_ALPHABET];
    uint64_t bits = (uint64_t)load16(fit + 1) << 47;
    double width, shape = (fit[0] + 1) * (fit[0] + 1) / 16384.0;
    memcpy(&width, &bits, 8);
    if (shape < 0.2) shape = 0.2;
    if (!(width > 0 && isfinite(width))) return -1;
    gennorm_weights(shape, width, edges, m, weights);
    if (!share) return normalize(weights, 2 * m + 1, TOTAL, out);
    weights[m] = 0;
    if (normalize(weights, 2 * m + 1, TOTAL - share, out) < 0) return -1;
    out[m] = share;
    return 0;
}

/* Frequencies of packed symbols; see packing.packed_frequencies. Returns their number. */
static int pack_frequencies(const int64_t *single, int n, int factor, int64_t *out) {
    int64_t weights[MAX_ALPHABET], next[MAX_ALPHABET];
    int size = n;
    if (factor == 1) {
        memcpy(out, single, n * sizeof *out);
        return n;
    }
    for (int i = 0; i < n; i++) {
        if (single[i] < 0 || single[i] > TOTAL) return -1;
        weights[i] = single[i] << (30 - PRECISION);
    }
    for (int k = 1; k < factor; k++) {
        if (size * n > MAX_ALPHABET) return -1;
        for (int j = 0; j < n; j++)
            for (int i = 0; i < size; i++) {
                int64_t product = single[j] * weights[i], scaled = product >> PRECISION;
                next[j * size + i] = scaled ? scaled : product > 0;
            }
        size *= n;
        memcpy(weights, next, size * sizeof *weights);
    }
    return normalize(weights, size, TOTAL, out) < 0 ? -1 : size;
}

/* Cost of a dense group whose symbols are packed; see group._packed_cost. */
static int64_t packed_cost(const int64_t *counts, int n, int64_t total, int factor, const int64_t *packed, int size,
                           const int32_t *log2) {
    int64_t share[MAX_ALPHABET], joint[MAX_ALPHABET], next[MAX_ALPHABET], per_symbol = 0;
    for (int i = 0; i < n; i++) joint[i] = share[i] = (counts[i] << SHARE_BITS) / total;
    for (int k = 1, have = n; k < factor; k++, have *= n) {
        for (int j = 0; j < n; j++)
            for (int i = 0; i < have; i++) next[j * have + i] = share[j] * joint[i] >> SHARE_BITS;
        memcpy(joint, next, have * n * sizeof *joint);
    }
    for (int i = 0; i < size; i++)
        if (joint[i]) per_symbol += joint[i] * (log2[TOTAL] - log2[packed[i]]);
    return (int64_t)((__int128)per_symbol * ((total + factor - 1) / factor) >> SHARE_BITS);
}

enum { FITTED = 1, FITTED_ZERO_SHARE = 2, COUNTED = 3 };

static PyObject *bytes_of(const void *data, Py_ssize_t size) { return PyBytes_FromStringAndSize(data, size); }

PyDoc_STRVAR(counted_table_doc, "counted_table(counts, mirrored, log2) -> (header, frequencies, cost) or None\n\n"
"The cheapest counted table for int64 counts; frequencies as bytes of int64, the cost in 2^-16 bits.");
static PyObject *py_counted_table(PyObject *self, PyObject *args) {
    Py_buffer counts, log2;
    int mirrored;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*py*", &counts, &mirrored, &log2)) return NULL;
    Table best;
    int n = (int)(counts.len / 8), fits = counts.len / 8 <= MAX_ALPHABET && n && log2.len >= (TOTAL + 1) * 4;
    int found = fits && sound_counts(counts.buf, n) ? best_counted(counts.buf, n, mirrored, log2.buf, &best) : -1;
    PyBuffer_Release(&counts);
    PyBuffer_Release(&log2);
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "A counted table takes 1 to 256 counts.");
        return NULL;
    }
    if (found < 0) Py_RETURN_NONE;
    return Py_BuildValue("(NNL)", bytes_of(best.header, best.header_size), bytes_of(best.frequencies, 8 * n),
                         (long long)best.cost);
}

PyDoc_STRVAR(fitted_frequencies_doc, "fitted_frequencies(fit, edges, share) -> bytes of int64\n\n"
"Frequencies of a fitted table; level 0 has `share` of 2^14 unless that is 0. The fit is three bytes, as it is sent.");
static PyObject *py_fitted_frequencies(PyObject *self, PyObject *args) {
    Py_buffer fit, edges;
    long long share;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*y*L", &fit, &edges, &share)) return NULL;
    int64_t frequencies[MAX_ALPHABET];
    Py_ssize_t m = edges.len / 8;
    int done = m >= 1 && m <= 127 && fit.len == 3 && share >= 0 && share <= TOTAL - 2 * m
                   ? fitted_frequencies(fit.buf, edges.buf, (int)m, share, frequencies) : -1;
    PyBuffer_Release(&fit);
    PyBuffer_Release(&edges);
    if (done < 0) {
        PyErr_SetString(PyExc_ValueError, "A fitted table takes a fit, 1 to 127 edges, and a share that leaves room.");
        return NULL;
    }
    return bytes_of(frequencies, 8 * (2 * m + 1));
}

PyDoc_STRVAR(packed_frequencies_doc, "packed_frequencies(frequencies, factor) -> bytes of int64");
static PyObject *py_packed_frequencies(PyObject *self, PyObject *args) {
    Py_buffer single;
    int factor, size = -1;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*i", &single, &factor)) return NULL;
    int64_t packed[MAX_ALPHABET];
    Py_ssize_t n = single.len / 8;
    if (n >= 1 && n <= MAX_ALPHABET && factor >= 1 && factor <= 8) size = pack_frequencies(single.buf, (int)n, factor, packed);
    PyBuffer_Release(&single);
    if (size < 0) {
        PyErr_SetString(PyExc_ValueError, "Packed symbols must fit one byte.");
        return NULL;
    }
    return bytes_of(packed, 8 * size);
}

/* The cheapest counted, fitted or zero-share table of a group, and which of these; -1 if there is none. */
static int best_dense(const int64_t *counts, int64_t total, const double *edges, int m, const uint8_t *fits[2],
                      const int32_t *log2, Table *best) {
    int n = 2 * m + 1, kind = COUNTED, have_zeros = counts[m] > 0 && counts[m] < total;
    if (best_counted(counts, n, 1, log2, best) < 0) return -1;
    int64_t shares[2] = {0, 0};
    if (have_zeros) {
        shares[1] = (TOTAL * counts[m] * 2 + total) / (2 * total);
        if (shares[1] < 1) shares[1] = 1;
        if (shares[1] > TOTAL - 2 * m) shares[1] = TOTAL - 2 * m;
    }
    for (int with_share = 0; with_share <= have_zeros; with_share++) {
        Table t = {{0}, 3 + 2 * with_share, {0}, 0};
        memcpy(t.header, fits[with_share], 3);
        t.header[3] = (uint8_t)shares[1], t.header[4] = (uint8_t)(shares[1] >> 8);
        if (fitted_frequencies(fits[with_share], edges, m, shares[with_share], t.frequencies) < 0) return -1;
        t.cost = cost_of(counts, t.frequencies, n, log2);
        if (t.cost >= 0 && size_of(&t) < size_of(best)) kind = FITTED + with_share, *best = t;
    }
    return kind;
}

PyDoc_STRVAR(dense_group_doc, "dense_group(counts, edges, fit, nonzero_fit, packed, log2)\n"
"    -> (header, factor, filler, packed frequencies, cost)\n\n"
"The cheapest table for all levels of a group, and how many symbols to pack into one; see group._dense. Fits are as\n"
"they are sent, in three bytes.");
static PyObject *py_dense_group(PyObject *self, PyObject *args) {
    Py_buffer counts_buffer, edges, fit, nonzero_fit, log2_buffer;
    int pack;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*y*y*y*py*", &counts_buffer, &edges, &fit, &nonzero_fit, &pack, &log2_buffer))
        return NULL;
    Table table;
    const int64_t *counts = counts_buffer.buf;
    const int32_t *log2 = log2_buffer.buf;
    const uint8_t *fits[2] = {fit.buf, nonzero_fit.buf};
    int m = (int)(edges.len / 8), n = 2 * m + 1, kind = -1, factor = 1, size = 0, filler = 0;
    int64_t total = 0, packed[MAX_ALPHABET], least = 0, sizes[9] = {0};
    int ok = m >= 1 && m <= 127 && counts_buffer.len == 8 * n && log2_buffer.len >= (TOTAL + 1) * 4 && fit.len == 3 &&
             nonzero_fit.len == 3 && sound_counts(counts, n);
    for (int i = 0; ok && i < n; i++) total += counts[i];
    if (ok && total) kind = best_dense(counts, total, edges.buf, m, fits, log2, &table);
    ok = kind > 0;
    int64_t own = ok ? (int64_t)table.header_size << (3 + COST_BITS) : 0;
    if (ok) {
        int largest = 1;
        if (pack)
            for (size = n; size * n <= MAX_ALPHABET; size *= n) largest++;
        for (int k = largest; ok && k > 0; k--) {
            size = pack_frequencies(table.frequencies, n, k, packed);
            if (size < 0) ok = 0;
            else sizes[k] = k == 1 ? table.cost : packed_cost(counts, n, total, k, packed, size, log2);
            sizes[k] += own;
            if (k == largest || sizes[k] < least) least = sizes[k];
        }
        for (factor = largest; ok && sizes[factor] > least + least / 1000;) factor--;
        if (ok) size = pack_frequencies(table.frequencies, n, factor, packed);
        for (int i = 1; i < n; i++)
            if (table.frequencies[i] > table.frequencies[filler]) filler = i;
    }
    PyBuffer_Release(&counts_buffer);
    PyBuffer_Release(&edges);
    PyBuffer_Release(&fit);
    PyBuffer_Release(&nonzero_fit);
    PyBuffer_Release(&log2_buffer);
    if (!ok) {
        PyErr_SetString(PyExc_ValueError, "A dense table takes 3 to 255 counts, not all 0, and the edges between them.");
        return NULL;
    }
    uint8_t header[2 + sizeof table.header] = {(uint8_t)(kind | (factor - 1) << 4), (uint8_t)m};
    memcpy(header + 2, table.header, table.header_size);
    return Py_BuildValue("(NiiNL)", bytes_of(header, 2 + table.header_size), factor, filler, bytes_of(packed, 8 * size),
                         (long long)(sizes[factor] - own));
}

/* -- rANS --------------------------------------------------------------------------------------------------------- */

static const int64_t MAX_ROWS = (int64_t)1 << 31, MAX_CHUNKS = (int64_t)1 << 31; /* their product fits 64 bits */

typedef struct {
    int64_t count, factor, alphabet, base, filler; /* symbols, how many form one, of what alphabet, ... */
} Packing;

typedef struct {
    uint64_t reciprocal; /* x / f is (x * reciprocal) >> shift, exactly, for the x < f 2^18 that a coder divides */
    uint16_t frequency, cumulative;
    uint8_t shift;
} EncoderEntry;

static void encoder_entries(const uint16_t *frequencies, EncoderEntry *out) {
    uint32_t cumulative = 0;
    for (int s = 0; s < 256; s++) {
        uint32_t f = frequencies[s];
        if (!f) { out[s] = (EncoderEntry){0, 0, 0, 0}; continue; }
        int p = f > 1 ? 32 - __builtin_clz(f - 1) : 0;
        uint64_t reciprocal = (((uint64_t)1 << (32 + p)) + f - 1) / f;
        out[s] = (EncoderEntry){reciprocal, (uint16_t)f, (uint16_t)cumulative, (uint8_t)(32 + p)};
        cumulative += f;
    }
}

INLINE uint16_t *encode_one(const EncoderEntry *entries, uint32_t *states, int lane, uint8_t symbol, uint16_t *at) {
    const EncoderEntry *e = &entries[symbol];
    uint32_t x = states[lane], full = x >> (32 - PRECISION) >= e->frequency;
    at[-1] = (uint16_t)x;
    at -= full;
    x >>= full << 4;
    uint32_t quotient = (uint32_t)(x * e->reciprocal >> e->shift);
    states[lane] = x + quotient * (TOTAL - e->frequency) + e->cumulative;
    return at;
}

/* Packed symbols first .. first + n of a sequence. */
static void pack_symbols(const uint8_t *symbols, Packing p, int64_t first, int64_t n, uint8_t *out) {
    const uint8_t base = (uint8_t)p.base, alphabet = (uint8_t)p.alphabet;
    const uint8_t *from = symbols + first * p.factor;
    int64_t whole = (p.count - first * p.factor) / p.factor;
    if (whole > n) whole = n;
    if (p.factor == 1)
        for (int64_t i = 0; i < whole; i++) out[i] = (uint8_t)(from[i] - base);
    else if (p.factor == 2)
        for (int64_t i = 0; i < whole; i++)
            out[i] = (uint8_t)((uint8_t)(from[2 * i] - base) + alphabet * (uint8_t)(from[2 * i + 1] - base));
    else
        for (int64_t i = 0; i < whole; i++) {
            unsigned value = 0;
            for (int64_t k = p.factor - 1; k >= 0; k--) value = value * alphabet + (uint8_t)(from[p.factor * i + k] - base);
            out[i] = (uint8_t)value;
        }
    if (whole < n) { /* the last one: what it lacks is the filler */
        unsigned value = 0;
        for (int64_t k = p.factor - 1; k >= 0; k--) {
            int64_t at = (first + whole) * p.factor + k;
            value = value * alphabet + (at < p.count ? (uint8_t)(symbols[at] - base) : (uint8_t)p.filler);
        }
        out[whole] = (uint8_t)value;
    }
}

#ifdef HAVE_AVX2
/* What the AVX2 encoder looks up: a reciprocal of 32 bits, and frequency - 1, cumulative frequency and shift in one. */
typedef struct {
    uint32_t reciprocal, entry;
} VectorEntry;

static void vector_entries(const uint16_t *frequencies, VectorEntry *out) {
    uint32_t cumulative = 0;
    for (int s = 0; s < 256; s++) {
        uint32_t f = frequencies[s] ? frequencies[s] : 1; /* frequency 0 does not occur */
        int p = f > 1 ? 32 - __builtin_clz(f - 1) : 0; /* the smallest with f <= 2^p */
        out[s].reciprocal = (uint32_t)((((uint64_t)1 << (31 + p)) + f - 1) / f);
        out[s].entry = (f - 1) | (cumulative & 0x3fff) << 14 | (uint32_t)p << 28;
        cumulative += frequencies[s];
    }
}

static uint8_t squeeze[256][16]; /* for each mask of lanes that give a word: those words' bytes, at the upper end */

static void make_squeeze(void) {
    for (int mask = 0; mask < 256; mask++) {
        int count = __builtin_popcount((unsigned)mask), word = 8 - count;
        memset(squeeze[mask], 0x80, 16);
        for (int lane = 0; lane < 8; lane++)
            if (mask >> lane & 1) {
                squeeze[mask][2 * word] = (uint8_t)(2 * lane);
                squeeze[mask][2 * word + 1] = (uint8_t)(2 * lane + 1);
                word++;
            }
    }
}

#define PAIR(t, a, b) _mm_castps_si128(_mm_loadh_pi(_mm_castsi128_ps( \
    _mm_loadl_epi64((const __m128i *)&t[a])), (const __m64 *)&t[b]))
#define PAIRS(t, a, b, c, d) _mm256_inserti128_si256(_mm256_castsi128_si256(PAIR(t, a, b)), PAIR(t, c, d), 1)

/* Whole rows of `lanes` (a multiple of 8), from the last to the first; writes up to 16 bytes below `at`. */
AVX2 static uint16_t *encode_rows_avx2(const VectorEntry *t, uint32_t *states, int lanes, int64_t rows,
                                       const uint8_t *symbols, uint16_t *at) {
    const __m256i low14 = _mm256_set1_epi32(0x3fff), one = _mm256_set1_epi32(1), base = _mm256_set1_epi32(31),
                  low_half = _mm256_set1_epi64x(0xffffffff);
    const __m256i low_words = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1,
                                               0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1);
    for (int64_t row = rows - 1; row >= 0; row--)
        for (int lane = lanes - 8; lane >= 0; lane -= 8) {
            __m256i x = _mm256_loadu_si256((const __m256i *)(states + lane));
            /* Eight loads of both numbers are faster than two gathers. */
            const uint8_t *eight = symbols + row * lanes + lane;
            __m256i first = PAIRS(t, eight[0], eight[1], eight[4], eight[5]);
            __m256i second = PAIRS(t, eight[2], eight[3], eight[6], eight[7]);
            __m256i reciprocal = _mm256_castps_si256(
                _mm256_shuffle_ps(_mm256_castsi256_ps(first), _mm256_castsi256_ps(second), 0x88));
            __m256i entry = _mm256_castps_si256(
                _mm256_shuffle_ps(_mm256_castsi256_ps(first), _mm256_castsi256_ps(second), 0xdd));
            __m256i less = _mm256_and_si256(entry, low14), shift = _mm256_add_epi32(_mm256_srli_epi32(entry, 28), base);
            __m256i cumulative = _mm256_and_si256(_mm256_srli_epi32(entry, 14), low14);
            /* A state too large for the symbol gives its low word first: x >> 18 > f - 1. */
            __m256i full = _mm256_cmpgt_epi32(_mm256_srli_epi32(x, 32 - PRECISION), less);
            int mask = _mm256_movemask_ps(_mm256_castsi256_ps(full));
            __m256i words = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(x, low_words), 0x08);
            __m128i given = _mm_shuffle_epi8(_mm256_castsi256_si128(words), _mm_loadu_si128((const __m128i *)squeeze[mask]));
            _mm_storeu_si128((__m128i *)(at - 8), given);
            at -= __builtin_popcount((unsigned)mask);
            x = _mm256_blendv_epi8(x, _mm256_srli_epi32(x, 16), full);
            /* The quotient by the reciprocal may be one too large; then the remainder is negative. */
            __m256i even = _mm256_srlv_epi64(_mm256_mul_epu32(x, reciprocal), _mm256_and_si256(shift, low_half));
            __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), _mm256_srli_epi64(reciprocal, 32));
            odd = _mm256_srlv_epi64(odd, _mm256_srli_epi64(shift, 32));
            __m256i quotient = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
            __m256i f = _mm256_add_epi32(less, one);
            __m256i rest = _mm256_sub_epi32(x, _mm256_mullo_epi32(quotient, f));
            __m256i wrong = _mm256_srai_epi32(rest, 31);
            quotient = _mm256_add_epi32(quotient, wrong);
            rest = _mm256_add_epi32(rest, _mm256_and_si256(wrong, f));
            x = _mm256_add_epi32(_mm256_add_epi32(_mm256_slli_epi32(quotient, PRECISION), rest), cumulative);
            _mm256_storeu_si256((__m256i *)(states + lane), x);
        }
    return at;
}

AVX2 static void pack_symbols_avx2(const uint8_t *symbols, Packing p, int64_t first, int64_t n, uint8_t *out) {
    int64_t i = 0;
    if (p.factor == 2 && p.alphabet <= 16) {
        const __m256i base = _mm256_set1_epi8((char)p.base), weights = _mm256_set1_epi16((short)(1 | p.alphabet << 8));
        const uint8_t *from = symbols + 2 * first;
        int64_t whole = (p.count - 2 * first) / 2 < n ? (p.count - 2 * first) / 2 : n;
        for (; i + 32 <= whole; i += 32) {
            __m256i a = _mm256_sub_epi8(_mm256_loadu_si256((const __m256i *)(from + 2 * i)), base);
            __m256i b = _mm256_sub_epi8(_mm256_loadu_si256((const __m256i *)(from + 2 * i + 32)), base);
            a = _mm256_packus_epi16(_mm256_maddubs_epi16(a, weights), _mm256_maddubs_epi16(b, weights));
            _mm256_storeu_si256((__m256i *)(out + i), _mm256_permute4x64_epi64(a, 0xd8));
        }
    }
    pack_symbols(symbols, p, first + i, n - i, out + i);
}
#endif

/* Whether lists and tables are long enough for the sequences that packings tell of. */
static int fit_together(const Buffers *symbols, const Py_buffer *packings, const Py_buffer *frequencies) {
    const Packing *p = packings->buf;
    Py_ssize_t n = packings->len / sizeof(Packing);
    if (symbols->count < n || frequencies->len < n * 512) return !too_short("table or list");
    for (Py_ssize_t k = 0; k < n; k++)
        if (p[k].factor < 1 || p[k].factor > 8 || p[k].count < 0 || symbols->views[k].len < p[k].count)
            return !too_short("list of symbols");
    return 1;
}

INLINE int64_t packed_length(const Packing *p) { return (p->count + p->factor - 1) / p->factor; }

PyDoc_STRVAR(rans_cost_doc, "rans_cost(symbols, packings, frequencies, log2) -> int\n\n"
"What an ideal coder spends on the symbols that `rans_encode` codes, in units of 2^-16 bits.");
static PyObject *py_rans_cost(PyObject *self, PyObject *args) {
    PyObject *list;
    Py_buffer packings, frequencies, log2_buffer;
    (void)self;
    if (!PyArg_ParseTuple(args, "Oy*y*y*", &list, &packings, &frequencies, &log2_buffer)) return NULL;
    Buffers symbols = {0};
    int ok = acquire(list, PyBUF_SIMPLE, &symbols) == 0 && fit_together(&symbols, &packings, &frequencies);
    if (ok && log2_buffer.len < (TOTAL + 1) * 4) ok = !too_short("table");
    int64_t cost = 0;
    if (ok) {
        Py_BEGIN_ALLOW_THREADS
        enum { ROOM = 8192 };
        const Packing *p = packings.buf;
        const int32_t *log2 = log2_buffer.buf;
        uint8_t block[ROOM];
        for (size_t k = 0; k < packings.len / sizeof(Packing); k++) {
            const uint16_t *own = (const uint16_t *)frequencies.buf + 256 * k;
            int64_t counts[256] = {0}, length = packed_length(&p[k]);
            for (int64_t first = 0; first < length; first += ROOM) {
                int64_t n = length - first < ROOM ? length - first : ROOM, whole = n & ~(int64_t)7;
                uint32_t histogram[4][256] = {{0}};
#ifdef HAVE_AVX2
                if (wide) pack_symbols_avx2(symbols.views[k].buf, p[k], first, n, block);
                else
#endif
                    pack_symbols(symbols.views[k].buf, p[k], first, n, block);
                count_plain(block, whole, histogram);
                for (int64_t i = whole; i < n; i++) histogram[0][block[i]]++;
                for (int s = 0; s < 256; s++)
                    counts[s] += (int64_t)histogram[0][s] + histogram[1][s] + histogram[2][s] + histogram[3][s];
            }
            for (int s = 0; s < 256; s++)
                if (counts[s]) cost += counts[s] * ((int64_t)log2[TOTAL] - log2[own[s] <= TOTAL ? own[s] : TOTAL]);
        }
        Py_END_ALLOW_THREADS
    }
    release(&symbols);
    PyBuffer_Release(&packings);
    PyBuffer_Release(&frequencies);
    PyBuffer_Release(&log2_buffer);
    return ok ? PyLong_FromLongLong(cost) : NULL;
}

PyDoc_STRVAR(rans_encode_doc, "rans_encode(symbols, packings, frequencies, lanes, rows_per_chunk, chunk) -> bytes\n\n"
"States and words of one chunk. packings: int64 rows (count, factor, alphabet, base, filler), one a sequence;\n"
"frequencies: uint16 rows of 256.");
static PyObject *py_rans_encode(PyObject *self, PyObject *args) {
    PyObject *list, *result = NULL;
    Py_buffer packings, frequencies;
    int lanes;
    long long rows_per_chunk, chunk;
    (void)self;
    if (!PyArg_ParseTuple(args, "Oy*y*iLL", &list, &packings, &frequencies, &lanes, &rows_per_chunk, &chunk))
        return NULL;
    Buffers symbols = {0};
    const Packing *p = packings.buf;
    Py_ssize_t n = packings.len / sizeof(Packing);
    int ok = acquire(list, PyBUF_SIMPLE, &symbols) == 0 && fit_together(&symbols, &packings, &frequencies);
    if (ok && (lanes < 1 || lanes > 4096 || rows_per_chunk < 1 || rows_per_chunk > MAX_ROWS || chunk < 0 ||
               chunk > MAX_CHUNKS))
        ok = !too_short("table or list");
    int64_t rows = 0, room = 0, low = ok ? chunk * rows_per_chunk : 0, high = ok ? low + rows_per_chunk : 0;
    for (Py_ssize_t k = 0; ok && k < n; k++) rows += (packed_length(&p[k]) + lanes - 1) / lanes;
    if (high > rows) high = rows;
    if (high > low) room = (high - low) * lanes;
    uint32_t *states = NULL;
    uint16_t *words = NULL, *end = NULL, *at = NULL;
    if (ok) {
        states = malloc((size_t)lanes * 4);
        words = malloc((size_t)(room + 9) * 2); /* the vector encoder writes 8 words at a time */
        if (!states || !words) PyErr_NoMemory(), ok = 0;
    }
    if (ok) {
        Py_BEGIN_ALLOW_THREADS
        enum { ROOM = 8192 };
        EncoderEntry entries[256];
#ifdef HAVE_AVX2
        VectorEntry vectors[256];
#endif
        uint8_t block[ROOM];
        int block_rows = ROOM / lanes;
        at = end = words + room + 9;
        for (int i = 0; i < lanes; i++) states[i] = LOWER;
        int64_t sequence_end = rows;
        for (Py_ssize_t k = n - 1; k >= 0; k--) {
            int64_t length = packed_length(&p[k]);
            int64_t mine = (length + lanes - 1) / lanes, begin = sequence_end - mine;
            int64_t from = low > begin ? low : begin, to = high < sequence_end ? high : sequence_end;
            const uint16_t *own = (const uint16_t *)frequencies.buf + 256 * k;
            if (from < to) {
                encoder_entries(own, entries);
#ifdef HAVE_AVX2
                if (wide) vector_entries(own, vectors);
#endif
            }
            while (from < to) {
                int64_t top = to - block_rows > from ? to - block_rows : from;
                int64_t first = (top - begin) * lanes, count = (to - begin) * lanes;
                count = (count < length ? count : length) - first;
#ifdef HAVE_AVX2
                if (wide) pack_symbols_avx2(symbols.views[k].buf, p[k], first, count, block);
                else
#endif
                    pack_symbols(symbols.views[k].buf, p[k], first, count, block);
                int64_t i = count;
#ifdef HAVE_AVX2
                if (wide && lanes % 8 == 0) {
                    for (; i % lanes; i--) at = encode_one(entries, states, (int)((i - 1) % lanes), block[i - 1], at);
                    at = encode_rows_avx2(vectors, states, lanes, i / lanes, block, at);
                    i = 0;
                }
#endif
                for (; i > 0; i--) at = encode_one(entries, states, (int)((i - 1) % lanes), block[i - 1], at);
                to = top;
            }
            sequence_end = begin;
        }
        Py_END_ALLOW_THREADS
        Py_ssize_t size = (end - at) * 2;
        result = PyBytes_FromStringAndSize(NULL, 4 * lanes + size);
        if (result) {
            char *out = PyBytes_AsString(result);
            memcpy(out, states, 4 * lanes);
            memcpy(out + 4 * lanes, at, size);
        }
    }
    free(states);
    free(words);
    release(&symbols);
    PyBuffer_Release(&packings);
    PyBuffer_Release(&frequencies);
    return result;
}

typedef struct {
    uint8_t symbols[TOTAL];     /* by slot */
    uint32_t entries[256];      /* frequency, and cumulative frequency in the upper half */
} DecoderTable;

static int decoder_table(const uint16_t *frequencies, DecoderTable *t) {
    uint32_t cumulative = 0;
    for (int s = 0; s < 256; s++) {
        uint32_t f = frequencies[s];
        if (f > TOTAL - cumulative) return -1;
        memset(t->symbols + cumulative, s, f);
        t->entries[s] = f | cumulative << 16;
        cumulative += f;
    }
    return cumulative == TOTAL ? 0 : -1;
}

enum { RANS_OK, RANS_SHORT, RANS_LEFT, RANS_TABLE };

/* Decodes n symbols of one row, lanes 0 .. n - 1. Returns NULL if words run out. */
INLINE const uint8_t *decode_row(const DecoderTable *t, uint32_t *states, int n, const uint8_t *at, const uint8_t *end,
                                 uint8_t *out) {
    for (int lane = 0; lane < n; lane++) {
        uint32_t x = states[lane], slot = x & (TOTAL - 1), symbol = t->symbols[slot], entry = t->entries[symbol];
        out[lane] = (uint8_t)symbol;
        x = (entry & 0xffff) * (x >> PRECISION) + slot - (entry >> 16);
        if (x < LOWER) {
            if (end - at < 2) return NULL;
            x = x << 16 | load16(at);
            at += 2;
        }
        states[lane] = x;
    }
    return at;
}

#ifdef HAVE_AVX2
static uint32_t spread[256][8]; /* for each mask of lanes that want a word: which word goes where */

static void make_spread(void) {
    for (int mask = 0; mask < 256; mask++)
        for (int lane = 0, word = 0; lane < 8; lane++) spread[mask][lane] = mask >> lane & 1 ? word++ : 0;
}

/* Eight lanes: states, and the symbols they stand for. Sixteen loads are faster than two gathers. */
#define LOOK_UP(k, where) (symbol = t->symbols[slots[k]], (where)[k] = (uint8_t)symbol, t->entries[symbol])
#define STEP(x, where) do { \
    uint32_t slots[8], symbol; \
    __m256i slot = _mm256_and_si256(x, slot_mask); \
    _mm256_storeu_si256((__m256i *)slots, slot); \
    __m128i low = _mm_cvtsi32_si128((int)LOOK_UP(0, where)); \
    low = _mm_insert_epi32(low, (int)LOOK_UP(1, where), 1); \
    low = _mm_insert_epi32(low, (int)LOOK_UP(2, where), 2); \
    low = _mm_insert_epi32(low, (int)LOOK_UP(3, where), 3); \
    __m128i high = _mm_cvtsi32_si128((int)LOOK_UP(4, where)); \
    high = _mm_insert_epi32(high, (int)LOOK_UP(5, where), 1); \
    high = _mm_insert_epi32(high, (int)LOOK_UP(6, where), 2); \
    high = _mm_insert_epi32(high, (int)LOOK_UP(7, where), 3); \
    __m256i entry = _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1); \
    x = _mm256_mullo_epi32(_mm256_srli_epi32(x, PRECISION), _mm256_and_si256(entry, half_mask)); \
    x = _mm256_sub_epi32(_mm256_add_epi32(x, slot), _mm256_srli_epi32(entry, 16)); \
    __m256i empty = _mm256_cmpeq_epi32(_mm256_srli_epi32(x, 16), _mm256_setzero_si256()); \
    int mask = _mm256_movemask_ps(_mm256_castsi256_ps(empty)); \
    __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)at)); \
    words = _mm256_permutevar8x32_epi32(words, _mm256_loadu_si256((const __m256i *)spread[mask])); \
    x = _mm256_blendv_epi8(x, _mm256_or_si256(_mm256_slli_epi32(x, 16), words), empty); \
    at += 2 * __builtin_popcount((unsigned)mask); \
} while (0)

/* Whole rows of `lanes` (a multiple of 8), as long as the words that a row may take are there. */
AVX2 static const uint8_t *decode_rows_avx2(const DecoderTable *t, uint32_t *states, int lanes, int64_t *rows,
                                            const uint8_t *at, const uint8_t *end, uint8_t **out) {
    const __m256i slot_mask = _mm256_set1_epi32(TOTAL - 1), half_mask = _mm256_set1_epi32(0xffff);
    uint8_t *to = *out;
    int64_t left = *rows;
    if (lanes == 32) {
        __m256i a = _mm256_loadu_si256((const __m256i *)states), b = _mm256_loadu_si256((const __m256i *)states + 1),
                c = _mm256_loadu_si256((const __m256i *)states + 2), d = _mm256_loadu_si256((const __m256i *)states + 3);
        for (; left && end - at >= 2 * 32 + 16; left--, to += 32) {
            STEP(a, to);
            STEP(b, to + 8);
            STEP(c, to + 16);
            STEP(d, to + 24);
        }
        _mm256_storeu_si256((__m256i *)states, a);
        _mm256_storeu_si256((__m256i *)states + 1, b);
        _mm256_storeu_si256((__m256i *)states + 2, c);
        _mm256_storeu_si256((__m256i *)states + 3, d);
    } else {
        for (; left && end - at >= 2 * lanes + 16; left--)
            for (int lane = 0; lane < lanes; lane += 8, to += 8) {
                __m256i x = _mm256_loadu_si256((const __m256i *)(states + lane));
                STEP(x, to);
                _mm256_storeu_si256((__m256i *)(states + lane), x);
            }
    }
    *rows = left;
    *out = to;
    return at;
}
#endif

PyDoc_STRVAR(rans_decode_doc,
"rans_decode(data, lengths, frequencies, lanes, rows_per_chunk, chunk, out) -> int\n\n"
"Decode one chunk into its place in `out`, a list of uint8 arrays, one a sequence of int64 `lengths`. Returns 0, or\n"
"1 if words run out, 2 if the chunk does not end where its symbols do, 3 if frequencies do not sum to 2^14.");
static PyObject *py_rans_decode(PyObject *self, PyObject *args) {
    PyObject *list;
    Py_buffer data, lengths_buffer, frequencies;
    int lanes, status = RANS_OK;
    long long rows_per_chunk, chunk;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*y*y*iLLO", &data, &lengths_buffer, &frequencies, &lanes, &rows_per_chunk, &chunk,
                          &list))
        return NULL;
    Buffers out = {0};
    Py_ssize_t n = lengths_buffer.len / 8;
    const int64_t *lengths = lengths_buffer.buf;
    uint32_t *states = NULL;
    DecoderTable *table = NULL;
    int ok = acquire(list, PyBUF_WRITABLE, &out) == 0;
    if (ok && (out.count < n || frequencies.len < n * 512 || lanes < 1 || lanes > 4096 || rows_per_chunk < 1 ||
               rows_per_chunk > MAX_ROWS || chunk < 0 || chunk > MAX_CHUNKS || data.len < 4 * lanes))
        ok = !too_short("chunk, table or list");
    for (Py_ssize_t k = 0; ok && k < n; k++)
        if (lengths[k] < 0 || out.views[k].len < lengths[k]) ok = !too_short("room for symbols");
    if (ok) {
        states = malloc((size_t)lanes * 4);
        table = malloc(sizeof *table);
        if (!states || !table) PyErr_NoMemory(), ok = 0;
    }
    if (ok) {
        Py_BEGIN_ALLOW_THREADS
        const uint8_t *at = (const uint8_t *)data.buf + 4 * lanes, *end = (const uint8_t *)data.buf + data.len;
        memcpy(states, data.buf, 4 * lanes);
        int64_t low = chunk * rows_per_chunk, high = low + rows_per_chunk, begin = 0;
        for (Py_ssize_t k = 0; k < n && begin < high && status == RANS_OK; k++) {
            int64_t rows = (lengths[k] + lanes - 1) / lanes;
            int64_t from = low > begin ? low - begin : 0, to = high - begin < rows ? high - begin : rows;
            if (from < to) {
                uint8_t *symbols = (uint8_t *)out.views[k].buf + from * lanes;
                int last = (int)(lengths[k] - (rows - 1) * lanes);  /* symbols of the last row */
                int64_t whole = to - from - (to == rows && last < lanes);
                if (decoder_table((const uint16_t *)frequencies.buf + 256 * k, table) < 0) status = RANS_TABLE;
                else {
#ifdef HAVE_AVX2
                    if (wide && lanes % 8 == 0)
                        at = decode_rows_avx2(table, states, lanes, &whole, at, end, &symbols);
#endif
                    for (; whole && at; whole--, symbols += lanes) at = decode_row(table, states, lanes, at, end, symbols);
                    if (at && to == rows && last < lanes) at = decode_row(table, states, last, at, end, symbols);
                    if (!at) status = RANS_SHORT;
                }
            }
            begin += rows;
        }
        if (status == RANS_OK) {
            if (at != end) status = RANS_LEFT;
            for (int i = 0; i < lanes; i++)
                if (states[i] != LOWER) status = RANS_LEFT;
        }
        Py_END_ALLOW_THREADS
    }
    free(states);
    free(table);
    release(&out);
    PyBuffer_Release(&data);
    PyBuffer_Release(&lengths_buffer);
    PyBuffer_Release(&frequencies);
    return ok ? PyLong_FromLong(status) : NULL;
}

/* -- Huffman ------------------------------------------------------------------------------------------------------ */

enum { MAX_LENGTH = 14 };

PyDoc_STRVAR(huffman_encode_doc, "huffman_encode(symbols, base, lengths, words, per_segment) -> (bytes, sizes)\n\n"
"Segments of code words, most significant bit first, each filled with ones; sizes as bytes of int64. lengths and\n"
"words: uint16, by symbol less base.");
static PyObject *py_huffman_encode(PyObject *self, PyObject *args) {
    Py_buffer symbols, lengths_buffer, words_buffer;
    int base;
    long long per_segment;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*iy*y*L", &symbols, &base, &lengths_buffer, &words_buffer, &per_segment)) return NULL;
    const uint16_t *lengths = lengths_buffer.buf, *words = words_buffer.buf;
    int64_t n = symbols.len;
    int ok = lengths_buffer.len >= 512 && words_buffer.len >= 512 && per_segment >= 1;
    for (int i = 0; ok && i < 256; i++) ok = lengths[i] <= MAX_LENGTH;
    if (!ok) too_short("table");
    int64_t segments = ok ? n / per_segment + (n % per_segment > 0) : 0;
    int64_t *sizes = ok ? malloc((size_t)(segments + 1) * 8) : NULL;
    uint8_t *out = ok ? malloc((size_t)n * 2 + (size_t)segments + 16) : NULL;
    if (ok && (!sizes || !out)) PyErr_NoMemory(), ok = 0;
    if (ok) {
        uint8_t *at = out;
        Py_BEGIN_ALLOW_THREADS
        const uint8_t *from = symbols.buf;
        for (int64_t k = 0; k < segments; k++) {
            int64_t stop = (k + 1) * per_segment < n ? (k + 1) * per_segment : n;
            uint8_t *first = at;
            uint64_t pending = 0;
            int width = 0;
            for (int64_t i = k * per_segment; i < stop; i++) {
                int s = (uint8_t)(from[i] - base), length = lengths[s];
                pending = pending << length | words[s];
                for (width += length; width >= 8;) width -= 8, *at++ = (uint8_t)(pending >> width);
            }
            if (width) *at++ = (uint8_t)(pending << (8 - width) | ((1u << (8 - width)) - 1));
            sizes[k] = at - first;
        }
        Py_END_ALLOW_THREADS
        result = Py_BuildValue("(NN)", bytes_of(out, at - out), bytes_of(sizes, 8 * segments));
    }
    free(sizes);
    free(out);
    PyBuffer_Release(&symbols);
    PyBuffer_Release(&lengths_buffer);
    PyBuffer_Release(&words_buffer);
    return result;
}

PyDoc_STRVAR(huffman_decode_doc, "huffman_decode(data, sizes, symbol_of, length_of, per_segment, out) -> bool\n\n"
"Decode the segments of one sequence, which lie in `data` one after the other; False if one does not end where its\n"
"symbols do. symbol_of, length_of: uint8, by the next 14 bits.");
static PyObject *py_huffman_decode(PyObject *self, PyObject *args) {
    Py_buffer data, sizes_buffer, symbol_buffer, length_buffer, out;
    long long per_segment;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*y*y*y*Lw*", &data, &sizes_buffer, &symbol_buffer, &length_buffer, &per_segment, &out))
        return NULL;
    const int64_t *sizes = sizes_buffer.buf;
    int64_t segments = sizes_buffer.len / 8, total = 0, n = out.len;
    int ok = symbol_buffer.len >= 1 << MAX_LENGTH && length_buffer.len >= 1 << MAX_LENGTH && per_segment >= 1 &&
             segments == n / per_segment + (n % per_segment > 0), sound = 1;
    for (int64_t k = 0; ok && k < segments; k++) {
        if (sizes[k] < 0 || sizes[k] > data.len - total) ok = 0;
        else total += sizes[k];
    }
    if (!ok) too_short("data or table");
    else {
        Py_BEGIN_ALLOW_THREADS
        const uint8_t *from = data.buf, *symbol_of = symbol_buffer.buf, *length_of = length_buffer.buf;
        uint8_t *to = out.buf;
        for (int64_t k = 0; k < segments && sound; from += sizes[k++]) {
            int64_t count = n - k * per_segment < per_segment ? n - k * per_segment : per_segment, position = 0;
            int64_t bits = 8 * sizes[k], i = 0;
            for (; i < count && position <= bits; i++) {
                uint32_t window = 0;
                int64_t byte = position >> 3;
                if (byte + 4 <= sizes[k]) window = __builtin_bswap32(load32(from + byte));
                else
                    for (int64_t j = 0; j < 4; j++) window = window << 8 | (byte + j < sizes[k] ? from[byte + j] : 0);
                window = window << (position & 7) >> (32 - MAX_LENGTH);
                to[i] = symbol_of[window];
                position += length_of[window];
            }
            int64_t left = bits - position;
            sound = i == count && left >= 0 && left < 8;
            if (sound && left) sound = !(~from[sizes[k] - 1] & ((1 << left) - 1));
            to += count;
        }
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&data);
    PyBuffer_Release(&sizes_buffer);
    PyBuffer_Release(&symbol_buffer);
    PyBuffer_Release(&length_buffer);
    PyBuffer_Release(&out);
    return ok ? PyBool_FromLong(sound) : NULL;
}

/* -- sparse groups ------------------------------------------------------------------------------------------------ */

/* Which of 64 symbols are not `zero`, bit by bit. */
static uint64_t nonzero_plain(const uint8_t *symbols, uint8_t zero) {
    const uint64_t zeros = zero * 0x0101010101010101u;
    uint64_t words[8], any = 0, mask = 0;
    memcpy(words, symbols, 64);
    for (int k = 0; k < 8; k++) any |= words[k] ^ zeros;
    if (any)
        for (int k = 0; k < 64; k++) mask |= (uint64_t)(symbols[k] != zero) << k;
    return mask;
}

#ifdef HAVE_AVX2
AVX2 static uint64_t nonzero_avx2(const uint8_t *symbols, uint8_t zero) {
    const __m256i zeros = _mm256_set1_epi8((char)zero);
    __m256i low = _mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i *)symbols), zeros);
    __m256i high = _mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i *)(symbols + 32)), zeros);
    return ~((uint64_t)(uint32_t)_mm256_movemask_epi8(high) << 32 | (uint32_t)_mm256_movemask_epi8(low));
}
#else
#define nonzero_avx2 nonzero_plain
#endif

typedef struct {
    uint8_t *tokens, *low, *levels;
    int64_t plane, used, found, before; /* bytes of a bit plane; tokens; levels; the last one's position */
    int zero, reach, shift;
} Gaps;

INLINE void add_level(Gaps *g, int64_t position, uint8_t symbol) {
    int64_t gap = position - g->before - 1, coarse = gap >> g->shift;
    for (; coarse >= ESCAPE; coarse -= ESCAPE) g->tokens[g->used++] = ESCAPE;
    g->tokens[g->used++] = (uint8_t)coarse;
    int level = symbol - g->zero;
    g->levels[g->found] = (uint8_t)(level + g->reach - (level > 0));
    for (int bit = 0; bit < g->shift; bit++)
        g->low[bit * g->plane + (g->found >> 3)] |= (uint8_t)((gap >> bit & 1) << (7 - (g->found & 7)));
    g->found++;
    g->before = position;
}

/* So many of the lowest bits of gaps are sent as they are: a mean gap has a token of 8 or so; see sparse.gaps_of. */
static int gap_shift(const uint8_t *symbols, int64_t n, uint8_t zero, int64_t levels) {
    const uint64_t zeros = zero * 0x0101010101010101u;
    uint64_t eight;
    for (; n >= 8; n -= 8) {
        memcpy(&eight, symbols + n - 8, 8);
        if (eight != zeros) break;
    }
    while (n && symbols[n - 1] == zero) n--;
    int bits = n > levels ? bit_length((n - levels) / (8 * levels)) : 0;
    return bits ? bits - 1 : 0;
}

PyDoc_STRVAR(gaps_doc, "gaps(symbols, zero, reach, levels, finer) -> (tokens, low, shift, levels)\n\n"
"What is coded of a sparse group, as bytes: tokens of the gaps, `shift` low bits in planes, and the symbols that are\n"
"not `zero` renumbered to 0 .. 2 reach - 1. There are exactly `levels` of them, at least one; `finer` bits less are\n"
"low ones than for even gaps.");
static PyObject *py_gaps(PyObject *self, PyObject *args) {
    Py_buffer buffer;
    int zero, reach, finer;
    long long levels;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*iiLi", &buffer, &zero, &reach, &levels, &finer)) return NULL;
    const uint8_t *symbols = buffer.buf;
    int64_t n = buffer.len, plane, room;
    int ok = levels > 0 && levels <= n, shift = ok ? gap_shift(symbols, n, (uint8_t)zero, levels) : 0;
    shift = finer < 0 ? shift : finer < shift ? shift - finer : 0;
    plane = ok ? (levels + 7) / 8 : 0;
    room = ok ? levels + (n >> shift) / ESCAPE + 1 : 0;
    Gaps g = {NULL, NULL, NULL, plane, 0, 0, -1, zero, reach, shift};
    if (!ok) too_short("list of symbols");
    else {
        g.tokens = malloc((size_t)room);
        g.levels = malloc((size_t)levels + 1);
        g.low = calloc((size_t)(plane * shift + 1), 1);
        if (!g.tokens || !g.levels || !g.low) PyErr_NoMemory(), ok = 0;
    }
    if (ok) {
        int too_many = 0;
        Py_BEGIN_ALLOW_THREADS
        int64_t i = 0;
        for (; i + 64 <= n && !too_many; i += 64) {
            uint64_t mask = wide ? nonzero_avx2(symbols + i, (uint8_t)zero) : nonzero_plain(symbols + i, (uint8_t)zero);
            for (; mask && !too_many; mask &= mask - 1) {
                int64_t at = i + __builtin_ctzll(mask);
                if (g.found < levels) add_level(&g, at, symbols[at]);
                else too_many = 1;
            }
        }
        for (; i < n && !too_many; i++)
            if (symbols[i] != zero) {
                if (g.found < levels) add_level(&g, i, symbols[i]);
                else too_many = 1;
            }
        Py_END_ALLOW_THREADS
        if (too_many || g.found != levels) too_short("count of levels");
        else
            result = Py_BuildValue("(NNiN)", bytes_of(g.tokens, g.used), bytes_of(g.low, plane * shift), shift,
                                   bytes_of(g.levels, levels));
    }
    free(g.tokens);
    free(g.low);
    free(g.levels);
    PyBuffer_Release(&buffer);
    return result;
}

PyDoc_STRVAR(zero_pairs_doc, "zero_pairs(symbols, zero, block, stride) -> (zeros, pairs)\n\n"
"How many symbols are `zero`, and how many follow one that is, in each `stride`th block; see group._is_clustered.");
static PyObject *py_zero_pairs(PyObject *self, PyObject *args) {
    Py_buffer buffer;
    int zero;
    long long block, stride, zeros = 0, pairs = 0;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*iLL", &buffer, &zero, &block, &stride)) return NULL;
    const uint8_t *symbols = buffer.buf;
    int ok = block > 0 && stride > 0 && block <= INT32_MAX;
    if (!ok) too_short("block");
    int64_t step = ok && stride <= buffer.len / block ? block * stride : buffer.len; /* the first block alone */
    for (int64_t first = 0; ok && first <= buffer.len - block; first += step) {
        const uint8_t *at = symbols + first;
        int32_t here = at[0] == zero, beside = 0;
        for (int64_t i = 1; i < block; i++) {
            here += at[i] == zero;
            beside += (at[i] == zero) & (at[i - 1] == zero);
        }
        zeros += here;
        pairs += beside;
    }
    PyBuffer_Release(&buffer);
    return ok ? Py_BuildValue("(LL)", zeros, pairs) : NULL;
}

/* Frequencies of a geometric distribution, its rest in the last token; see frequencies.geometric. */
static int geometric(int64_t ratio, int64_t *out) {
    int64_t weights[TOKENS], rest = 1 << 30;
    for (int k = 0; k < TOKENS - 1; k++) {
        int64_t after = rest * ratio >> 8;
        weights[k] = rest - after > 1 ? rest - after : 1;
        rest = after;
    }
    weights[TOKENS - 1] = rest > 1 ? rest : 1;
    return normalize(weights, TOKENS, TOTAL, out);
}

PyDoc_STRVAR(token_table_doc, "token_table(tokens, shift, log2) -> (header, frequencies, cost)\n\n"
"The cheapest table for the tokens of gaps, geometric or counted; see sparse.token_table.");
static PyObject *py_token_table(PyObject *self, PyObject *args) {
    Py_buffer buffer, log2;
    int shift;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*iy*", &buffer, &shift, &log2)) return NULL;
    const uint8_t *tokens = buffer.buf;
    int64_t counts[TOKENS] = {0}, n = buffer.len, total = 0;
    int ok = n > 0 && shift >= 0 && shift <= 40 && log2.len >= (TOTAL + 1) * 4, counted = 0;
    for (int64_t i = 0; ok && i < n; i++) {
        ok = tokens[i] < TOKENS;
        if (ok) counts[tokens[i]]++, total += tokens[i];
    }
    Table fitted = {{0}, 2, {0}, 0}, table;
    if (ok) {
        double ratio = rint((double)(256 * total) / (double)(n + total));
        ratio = ratio < 1 ? 1 : ratio > 255 ? 255 : ratio;
        fitted.header[0] = (uint8_t)shift, fitted.header[1] = (uint8_t)ratio;
        ok = geometric(fitted.header[1], fitted.frequencies) == 0 && best_counted(counts, TOKENS, 0, log2.buf, &table) == 0;
        if (ok) {
            fitted.cost = cost_of(counts, fitted.frequencies, TOKENS, log2.buf);
            counted = size_of(&table) + ((int64_t)1 << (3 + COST_BITS)) < size_of(&fitted);
        }
    }
    PyBuffer_Release(&buffer);
    PyBuffer_Release(&log2);
    if (!ok) {
        PyErr_SetString(PyExc_ValueError, "A table of tokens takes at least one token, each of them below 64.");
        return NULL;
    }
    if (!counted) table = fitted;
    uint8_t header[1 + sizeof table.header] = {(uint8_t)(shift | 0x80)};
    memcpy(header + counted, table.header, table.header_size);
    return Py_BuildValue("(NNL)", bytes_of(header, counted + table.header_size), bytes_of(table.frequencies, 8 * TOKENS),
                         (long long)table.cost);
}

enum { CHECK, SYMBOLS, ASSIGN, ADD };
static const int64_t MAX_ENTRIES = (int64_t)1 << 48;

/* The low bits of eight levels, from one byte of each plane. */
INLINE void low_bits(const uint8_t *low, int64_t plane, int64_t at, int shift, uint64_t lows[8]) {
    uint64_t bytes = 0;
    for (int bit = 0; bit < shift && bit < 8; bit++) {
        /* One bit to a byte, the most significant first: what is not 0 becomes 1. */
        uint64_t spread = low[bit * plane + at] * 0x0101010101010101u & 0x0102040810204080u;
        bytes |= ((spread + 0x7f7f7f7f7f7f7f7fu) >> 7 & 0x0101010101010101u) << bit;
    }
    for (int k = 0; k < 8; k++) lows[k] = bytes >> (8 * k) & 255;
    for (int bit = 8; bit < shift; bit++)
        for (int k = 0; k < 8; k++) lows[k] |= (uint64_t)(low[bit * plane + at] >> (7 - k) & 1) << bit;
}

PyDoc_STRVAR(place_doc, "place(tokens, low, shift, packed, factor, alphabet, levels, entries, mode, values, out) -> bool\n\n"
"Walk through a sparse group of so many entries. mode 0: only check; 1: write uint8 values into out, 2: write float32\n"
"values, 3: add them. values: one for each of the `alphabet` levels. False if the gaps do not fit the levels or entries.");
static PyObject *py_place(PyObject *self, PyObject *args) {
    Py_buffer token_buffer, low_buffer, packed_buffer, values, out;
    int shift, factor, alphabet, mode, sound = 1;
    long long levels, entries;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*y*iy*iiLLiy*w*", &token_buffer, &low_buffer, &shift, &packed_buffer, &factor,
                          &alphabet, &levels, &entries, &mode, &values, &out))
        return NULL;
    const uint8_t *tokens = token_buffer.buf, *low = low_buffer.buf, *packed = packed_buffer.buf;
    int64_t count = token_buffer.len, plane = levels >= 0 && levels <= MAX_ENTRIES ? (levels + 7) / 8 : 0;
    int item = mode == SYMBOLS ? 1 : 4;
    int ok = levels >= 0 && levels <= MAX_ENTRIES && entries >= 0 && entries <= MAX_ENTRIES && shift >= 0 && shift <= 40 && factor >= 1 && factor <= 8 && alphabet >= 2 &&
             alphabet <= 256 && low_buffer.len >= plane * shift && packed_buffer.len >= (levels + factor - 1) / factor &&
             (mode == CHECK || (mode >= SYMBOLS && mode <= ADD && values.len >= alphabet * item && out.len / item >= entries));
    if (!ok) too_short("data or result");
    else {
        Py_BEGIN_ALLOW_THREADS
        int64_t position = -1, found = 0;
        uint64_t zeros = 0, lows[8] = {0};
        uint8_t digits[256 * 8];
        if (mode != CHECK)
            for (int symbol = 0; symbol < 256; symbol++)
                for (int k = 0, rest = symbol; k < factor; k++, rest /= alphabet)
                    digits[symbol * factor + k] = (uint8_t)(rest % alphabet);
        const uint8_t *next = packed, *mine = digits;
        int left = 0; /* of the digits of a packed symbol */
        for (int64_t k = 0; k < count; k++) {
            zeros += (uint64_t)tokens[k] << shift;
            if (tokens[k] == ESCAPE && zeros <= (uint64_t)entries) continue;
            if (found == levels || zeros > (uint64_t)entries) { sound = 0; break; }
            if (!(found & 7)) low_bits(low, plane, found >> 3, shift, lows);
            position += (int64_t)(zeros + lows[found & 7]) + 1;
            zeros = 0;
            found++;
            if (position >= entries) { sound = 0; break; }
            if (mode == CHECK) continue;
            if (!left) mine = digits + *next++ * factor, left = factor;
            uint8_t level = *mine++;
            left--;
            if (mode == SYMBOLS) ((uint8_t *)out.buf)[position] = ((const uint8_t *)values.buf)[level];
            else if (mode == ASSIGN) ((float *)out.buf)[position] = ((const float *)values.buf)[level];
            else ((float *)out.buf)[position] += ((const float *)values.buf)[level];
        }
        if (found != levels || zeros) sound = 0;
        if (count && tokens[count - 1] == ESCAPE) sound = 0;
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&token_buffer);
    PyBuffer_Release(&low_buffer);
    PyBuffer_Release(&packed_buffer);
    PyBuffer_Release(&values);
    PyBuffer_Release(&out);
    return ok ? PyBool_FromLong(sound) : NULL;
}

/* -- back to values ----------------------------------------------------------------------------------------------- */

enum { MAX_FACTOR = 8, PIECE = 1024 };

typedef struct {
    int64_t factor, first, base, alphabet; /* so many in one; the tensor's first; the value of the lowest; how many */
} Digits;

/* What packed symbols stand for, one row after the other. Rows of more than two have a place for eight: they are
 * copied whole, and the next one goes over what that is too much. */
typedef struct {
    float values[256 * MAX_FACTOR];
    int factor, stride;
} ValueRows;

/* Bytes beyond the alphabet's products stand for something, too. */
static void value_rows(const float *values, Digits d, ValueRows *rows) {
    int digits[MAX_FACTOR] = {0}, factor = (int)d.factor, stride = factor > 2 ? MAX_FACTOR : factor;
    rows->factor = factor;
    rows->stride = stride;
    for (int symbol = 0; symbol < 256; symbol++) {
        for (int k = 0; k < factor; k++) rows->values[symbol * stride + k] = values[digits[k]];
        for (int k = 0; k < factor && ++digits[k] == d.alphabet; k++) digits[k] = 0;
    }
}

INLINE void expand_few(const uint8_t *packed, int64_t n, const float *values, const int factor, float *out, int add) {
    for (int64_t i = 0; i < n; i++)
        for (int k = 0; k < factor; k++) {
            float value = values[packed[i] * factor + k];
            out[factor * i + k] = add ? out[factor * i + k] + value : value;
        }
}

/* Whole rows, to be added by way of a piece that stays in cache. */
INLINE void expand_many(const uint8_t *packed, int64_t n, const ValueRows *rows, float *out, int add) {
    float piece[PIECE + MAX_FACTOR];
    const int factor = rows->factor, most = PIECE / factor;
    int64_t first = 0;
    if (!add)
        for (; first < n - MAX_FACTOR; first++)
            memcpy(out + factor * first, rows->values + packed[first] * MAX_FACTOR, 4 * MAX_FACTOR);
    for (; first < n; first += most) {
        int64_t some = n - first < most ? n - first : most, count = some * factor, i = 0;
        float *to = out + first * factor;
        for (int64_t k = 0; k < some; k++)
            memcpy(piece + factor * k, rows->values + packed[first + k] * MAX_FACTOR, 4 * MAX_FACTOR);
        for (; add && i + 8 <= count; i += 8) store8(to + i, load8(to + i) + load8(piece + i));
        for (; i < count; i++) to[i] = add ? to[i] + piece[i] : piece[i];
    }
}

static void expand_plain(const uint8_t *packed, int64_t n, const ValueRows *rows, float *out, int add) {
    if (rows->factor == 1) expand_few(packed, n, rows->values, 1, out, add);
    else if (rows->factor == 2) expand_few(packed, n, rows->values, 2, out, add);
    else expand_many(packed, n, rows, out, add);
}
#ifdef HAVE_AVX2
#define VALUE(shift) table[eight >> (shift) & 255]
#define VALUE_PAIRS(shift) _mm_loadh_pi(_mm_castsi128_ps(_mm_loadl_epi64( \
    (const __m128i *)(table + 2 * (eight >> (shift) & 255)))), (const __m64 *)(table + 2 * (eight >> ((shift) + 8) & 255)))

/* Eight packed symbols at a time: that many values, or twice as many. */
AVX2 static void expand_avx2(const uint8_t *packed, int64_t n, const ValueRows *rows, float *out, int add) {
    const int factor = rows->factor;
    const float *table = rows->values;
    int64_t i = 0;
    for (; factor <= 2 && i + 8 <= n; i += 8) {
        uint64_t eight;
        memcpy(&eight, packed + i, 8);
        for (int half = 0; half < factor; half++, eight >>= 32) {
            float *to = out + factor * i + 8 * half;
            __m256 v = factor == 2
                           ? _mm256_set_m128(VALUE_PAIRS(16), VALUE_PAIRS(0))
                           : _mm256_setr_ps(VALUE(0), VALUE(8), VALUE(16), VALUE(24), VALUE(32), VALUE(40), VALUE(48), VALUE(56));
            _mm256_storeu_ps(to, add ? _mm256_add_ps(_mm256_loadu_ps(to), v) : v);
        }
    }
    if (factor > 2) expand_many(packed, n, rows, out, add);
    else expand_plain(packed + i, n - i, rows, out + factor * i, add);
}
#else
#define expand_avx2 expand_plain
#endif

/* Values of n symbols, the first of which lies somewhere in a packed one. */
static void dequantize(const uint8_t *packed, int64_t at, const ValueRows *rows, int64_t n, float *out, int add) {
    const int factor = rows->factor;
    int64_t i = 0, whole;
    for (; i < n && at % factor; i++, at++) {
        float value = rows->values[packed[at / factor] * rows->stride + at % factor];
        out[i] = add ? out[i] + value : value;
    }
    whole = (n - i) / factor;
    if (wide) expand_avx2(packed + at / factor, whole, rows, out + i, add);
    else expand_plain(packed + at / factor, whole, rows, out + i, add);
    at += whole * factor;
    for (i += whole * factor; i < n; i++, at++) {
        float value = rows->values[packed[at / factor] * rows->stride + at % factor];
        out[i] = add ? out[i] + value : value;
    }
}

PyDoc_STRVAR(dequantize_doc, "dequantize(packed, digits, values, segments, out, add)\n\n"
"Values of each segment's symbols into the float32 arrays of the list out, or added to them. packed: list of symbols,\n"
"one a tensor, several of them in a byte. digits: int64 rows (factor, first, base, alphabet): `factor` symbols of so\n"
"large an alphabet in a byte, the first least significant; the tensor begins at symbol `first`; symbol 0 stands for\n"
"value `base`. values: float32 rows, one a tensor.");
static PyObject *py_dequantize(PyObject *self, PyObject *args) {
    PyObject *packed_list, *out_list;
    Py_buffer digits_buffer, values_buffer, segments;
    int add;
    (void)self;
    if (!PyArg_ParseTuple(args, "Oy*y*y*Op", &packed_list, &digits_buffer, &values_buffer, &segments, &out_list, &add))
        return NULL;
    Buffers packed = {0}, out = {0};
    Py_ssize_t count = segments.len / sizeof(Segment);
    const Segment *runs = segments.buf;
    const Digits *digits = digits_buffer.buf;
    const float *values = values_buffer.buf;
    int ok = acquire(packed_list, PyBUF_SIMPLE, &packed) == 0 && acquire(out_list, PyBUF_WRITABLE, &out) == 0 &&
             check_segments(runs, count, &out, NULL) == 0;
    int64_t width = ok && out.count ? values_buffer.len / 4 / out.count : 0;
    if (ok && (packed.count < out.count || digits_buffer.len / (Py_ssize_t)sizeof(Digits) < out.count))
        ok = !too_short("list of symbols");
    for (Py_ssize_t k = 0; ok && k < count; k++) {
        Digits d = digits[runs[k].tensor];
        int64_t room = packed.views[runs[k].tensor].len;
        if (d.factor < 1 || d.factor > MAX_FACTOR || d.alphabet < 2 || d.alphabet > 256 || d.base < 0 ||
            d.base > width - d.alphabet || d.first < 0 || room > INT64_MAX / MAX_FACTOR ||
            d.first > room * d.factor - runs[k].stop)
            ok = !too_short("list of symbols or values");
    }
    if (ok) {
        Py_BEGIN_ALLOW_THREADS
        ValueRows rows = {{0}, 1, 1};
        for (Py_ssize_t k = 0; k < count; k++) {
            int64_t t = runs[k].tensor;
            value_rows(values + t * width + digits[t].base, digits[t], &rows);
            dequantize(packed.views[t].buf, digits[t].first + runs[k].start, &rows, runs[k].stop - runs[k].start,
                       (float *)out.views[t].buf + runs[k].start, add);
        }
        Py_END_ALLOW_THREADS
    }
    release(&packed);
    release(&out);
    PyBuffer_Release(&digits_buffer);
    PyBuffer_Release(&values_buffer);
    PyBuffer_Release(&segments);
    if (!ok) return NULL;
    Py_RETURN_NONE;
}

/* -- rows and columns in classes ---------------------------------------------------------------------------------- */

typedef struct {
    int64_t rows, columns, inner;
} Grid;

/* Whether a grid has so many entries as there are bytes. */
static int fits_grid(Grid g, int64_t bytes) {
    if (g.rows < 1 || g.columns < 1 || g.inner < 1 || g.rows > bytes || g.columns > bytes || g.inner > bytes) return 0;
    return bytes % g.rows == 0 && bytes / g.rows % g.columns == 0 && bytes / g.rows / g.columns == g.inner;
}

PyDoc_STRVAR(activity_doc, "activity(symbols, rows, columns, inner, zero, by_row, by_column)\n\n"
"Adds to int64 by_row and by_column how many symbols of each row and column are not `zero`.");
static PyObject *py_activity(PyObject *self, PyObject *args) {
    Py_buffer symbols, by_row, by_column;
    long long rows, columns, inner;
    int zero;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*LLLiw*w*", &symbols, &rows, &columns, &inner, &zero, &by_row, &by_column)) return NULL;
    Grid g = {rows, columns, inner};
    int ok = fits_grid(g, symbols.len) && by_row.len / 8 >= rows && by_column.len / 8 >= columns;
    if (!ok) too_short("list of symbols or counts");
    else {
        Py_BEGIN_ALLOW_THREADS
        const uint8_t *next = symbols.buf, wanted = (uint8_t)zero;
        int64_t *of_row = by_row.buf, *of_column = by_column.buf;
        for (int64_t r = 0; r < rows; r++) {
            int64_t row = 0;
            for (int64_t c = 0; c < columns; c++, next += inner) {
                int64_t count = 0;
                for (int64_t k = 0; k < inner; k++) count += next[k] != wanted;
                of_column[c] += count;
                row += count;
            }
            of_row[r] += row;
        }
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&symbols);
    PyBuffer_Release(&by_row);
    PyBuffer_Release(&by_column);
    if (!ok) return NULL;
    Py_RETURN_NONE;
}

/* Where the symbols of each pair of classes lie, checked so that none of them lies outside. */
typedef struct {
    Grid grid;
    const uint8_t *rows, *columns;
    int bits; /* of a column's class */
    int64_t next[64];
} Sorted;

static int sorted_places(Sorted *s, const Py_buffer *rows, const Py_buffer *columns, const Py_buffer *starts,
                         int64_t entries) {
    int64_t row_counts[8] = {0}, column_counts[8] = {0};
    if (!fits_grid(s->grid, entries) || rows->len < s->grid.rows || columns->len < s->grid.columns || s->bits < 0 ||
        s->bits > 3)
        return too_short("list of classes");
    s->rows = rows->buf, s->columns = columns->buf;
    for (int64_t r = 0; r < s->grid.rows; r++) {
        if (s->rows[r] > 7) return too_short("list of classes");
        row_counts[s->rows[r]]++;
    }
    for (int64_t c = 0; c < s->grid.columns; c++) {
        if (s->columns[c] >> s->bits) return too_short("list of classes");
        column_counts[s->columns[c]]++;
    }
    const int64_t *start = starts->buf;
    for (int64_t k = 0; k < 64; k++) {
        int64_t size = k >> s->bits < 8 ? row_counts[k >> s->bits] * column_counts[k & ((1 << s->bits) - 1)] : 0;
        s->next[k] = 0;
        if (!size) continue;
        size *= s->grid.inner;
        if (starts->len / 8 <= k || start[k] < 0 || start[k] > entries - size) return too_short("room for a class");
        s->next[k] = start[k];
    }
    return 0;
}

PyDoc_STRVAR(sort_classes_doc,
"sort_classes(symbols, rows, columns, inner, row_classes, column_classes, bits, starts, out, counts)\n\n"
"Symbols of each pair of classes (row class times 2^bits, and column class) from starts[pair] on into out, and how often\n"
"each occurs into int64 rows of 256.");
static PyObject *py_sort_classes(PyObject *self, PyObject *args) {
    Py_buffer symbols, rows, columns, starts, out, counts;
    Sorted s;
    long long r, c, inner;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*LLLy*y*iy*w*w*", &symbols, &r, &c, &inner, &rows, &columns, &s.bits, &starts, &out,
                          &counts))
        return NULL;
    s.grid = (Grid){r, c, inner};
    int ok = sorted_places(&s, &rows, &columns, &starts, symbols.len) == 0;
    if (ok && (out.len < symbols.len || counts.len / 2048 < starts.len / 8)) ok = !too_short("result");
    if (ok) {
        Py_BEGIN_ALLOW_THREADS
        const uint8_t *from = symbols.buf;
        for (int64_t i = 0; i < r; i++)
            for (int64_t j = 0; j < c; j++, from += inner) {
                int k = s.rows[i] << s.bits | s.columns[j];
                uint8_t *to = (uint8_t *)out.buf + s.next[k];
                int64_t *count = (int64_t *)counts.buf + 256 * k;
                s.next[k] += inner;
                for (int64_t m = 0; m < inner; m++) to[m] = from[m], count[from[m]]++;
            }
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&symbols);
    PyBuffer_Release(&rows);
    PyBuffer_Release(&columns);
    PyBuffer_Release(&starts);
    PyBuffer_Release(&out);
    PyBuffer_Release(&counts);
    if (!ok) return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(merge_classes_doc,
"merge_classes(symbols, rows, columns, inner, row_classes, column_classes, bits, starts, out)\n\nReverses sort_classes.");
static PyObject *py_merge_classes(PyObject *self, PyObject *args) {
    Py_buffer symbols, rows, columns, starts, out;
    Sorted s;
    long long r, c, inner;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*LLLy*y*iy*w*", &symbols, &r, &c, &inner, &rows, &columns, &s.bits, &starts, &out))
        return NULL;
    s.grid = (Grid){r, c, inner};
    int ok = sorted_places(&s, &rows, &columns, &starts, symbols.len) == 0;
    if (ok && out.len < symbols.len) ok = !too_short("result");
    if (ok) {
        Py_BEGIN_ALLOW_THREADS
        uint8_t *to = out.buf;
        for (int64_t i = 0; i < r; i++)
            for (int64_t j = 0; j < c; j++, to += inner) {
                int k = s.rows[i] << s.bits | s.columns[j];
                const uint8_t *from = (const uint8_t *)symbols.buf + s.next[k];
                s.next[k] += inner;
                for (int64_t m = 0; m < inner; m++) to[m] = from[m];
            }
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&symbols);
    PyBuffer_Release(&rows);
    PyBuffer_Release(&columns);
    PyBuffer_Release(&starts);
    PyBuffer_Release(&out);
    if (!ok) return NULL;
    Py_RETURN_NONE;
}

/* -- the module --------------------------------------------------------------------------------------------------- */

PyDoc_STRVAR(use_doc, "use(vectors) -> bool\n\nWhether to use AVX2 where the processor has it; returns whether it is used.");
static PyObject *py_use(PyObject *self, PyObject *args) {
    int wanted;
    (void)self;
    if (!PyArg_ParseTuple(args, "p", &wanted)) return NULL;
#ifdef HAVE_AVX2
    wide = wanted && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt");
#endif
    return PyBool_FromLong(wide);
}

static PyMethodDef methods[] = {
    {"moments", py_moments, METH_VARARGS, moments_doc},
    {"convert", py_convert, METH_VARARGS, convert_doc},
    {"keep", py_keep, METH_VARARGS, keep_doc},
    {"counted_table", py_counted_table, METH_VARARGS, counted_table_doc},
    {"fitted_frequencies", py_fitted_frequencies, METH_VARARGS, fitted_frequencies_doc},
    {"packed_frequencies", py_packed_frequencies, METH_VARARGS, packed_frequencies_doc},
    {"dense_group", py_dense_group, METH_VARARGS, dense_group_doc},
    {"rans_cost", py_rans_cost, METH_VARARGS, rans_cost_doc},
    {"rans_encode", py_rans_encode, METH_VARARGS, rans_encode_doc},
    {"rans_decode", py_rans_decode, METH_VARARGS, rans_decode_doc},
    {"huffman_encode", py_huffman_encode, METH_VARARGS, huffman_encode_doc},
    {"huffman_decode", py_huffman_decode, METH_VARARGS, huffman_decode_doc},
    {"gaps", py_gaps, METH_VARARGS, gaps_doc},
    {"zero_pairs", py_zero_pairs, METH_VARARGS, zero_pairs_doc},
    {"token_table", py_token_table, METH_VARARGS, token_table_doc},
    {"place", py_place, METH_VARARGS, place_doc},
    {"dequantize", py_dequantize, METH_VARARGS, dequantize_doc},
    {"activity", py_activity, METH_VARARGS, activity_doc},
    {"sort_classes", py_sort_classes, METH_VARARGS, sort_classes_doc},
    {"merge_classes", py_merge_classes, METH_VARARGS, merge_classes_doc},
    {"use", py_use, METH_VARARGS, use_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_kernels", "The compiled hot loops of flwr_co3; flwr_co3.kernels decides on their use.", 0,
    methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__kernels(void) {
#ifdef HAVE_AVX2
    __builtin_cpu_init();
    make_spread();
    make_squeeze();
    wide = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt");
#endif
    return PyModule_Create(&module);
}
