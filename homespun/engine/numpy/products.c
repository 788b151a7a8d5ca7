/* Products of vectors with matrices whose weights have 32, 16 or 8 bits. `products.py` calls this.

   A matrix [n_out, n_in] lies in panels of PANEL rows: [n_out / PANEL, n_in / group, PANEL, group], the last panel and
   the last group filled up with zeros. So the weights are read in the order of the memory. Each of them is multiplied
   with several vectors while it is in a register, and a panel with all vectors while it is in the cache.

   A group is as many inputs as one instruction multiplies and adds for each output:
   - one number in float32. Narrow weights are widened first.
   - two in bfloat16, if the processor has AVX512-BF16. The vectors are rounded to bfloat16, too.
   - four whole numbers of 8 bits, if it has AVX512-VNNI. The vectors are rounded to whole numbers of 16 bits times a
     factor, more exactly than to bfloat16, and each of these is multiplied as two of 8 bits.

   Sums are in float32, or in whole numbers, which are exact up to 130,000 inputs. An output is the sum of its products in
   the order of the inputs, whatever the number of vectors and of threads: a text gets the same bits alone and beside
   others. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#define PANEL 32 /* as in `panels.py` */
#ifdef __AVX512F__
#define CHUNK 16 /* numbers in a vector register, or in two where they are smaller */
#define ROWS 8   /* so many rows of numbers are multiplied at a time: their sums fill the registers */
#define MANY 7   /* rows of numbers that take long enough to fetch the next panel meanwhile */
#else
#define CHUNK 8
#define ROWS 6
#define MANY 3
#endif
#define ALONE 8 /* chunks of outputs at a time for a single vector: as many sums run side by side */
#define SOME 2  /* chunks of outputs at a time for several vectors */
#define STRIPES (PANEL / (SOME * CHUNK)) /* of a panel, each with `SOME` chunks of its outputs */
#define LINE 64 /* bytes that a processor fetches at a time */
#define INLINE static inline __attribute__((always_inline))

typedef float chunk __attribute__((vector_size(4 * CHUNK)));
typedef int32_t whole __attribute__((vector_size(4 * CHUNK)));
typedef uint32_t words __attribute__((vector_size(4 * CHUNK)));
typedef uint16_t halves __attribute__((vector_size(2 * CHUNK)));

/* Bytes of a group of weights, and rows of numbers that make a vector. */
#define SIZE(kind) ((kind) == WIDENED_BFLOAT16 ? 2 : (kind) == WIDENED_INT8 ? 1 : 4)
#define PARTS(kind) ((kind) == QUADS ? 2 : 1)

/* How a vector was rounded to whole numbers. */
struct rounded {
    float factor;     /* of its numbers */
    uint32_t sums[2]; /* of its upper and lower halves */
};

/* One call of a product. */
struct work {
    const float *x; /* [n * parts, n_groups], each number a group of inputs */
    const struct rounded *rounded;
    long n;
    const char *weights;
    const float *scales, *bias;
    long n_out, n_groups;
    float *y;
};

/* How weights are multiplied. Each is a constant where it is used, so that only its own case is left. */
enum kind { FLOAT32, WIDENED_BFLOAT16, WIDENED_INT8, PAIRS, QUADS };

INLINE chunk as_they_are(const void *weights) {
    chunk found;
    memcpy(&found, weights, sizeof found);
    return found;
}

INLINE chunk widen_bfloat16(const void *weights) { /* bfloat16 is the upper half of a float32 */
#ifdef __AVX512F__
    __m256i from = _mm256_loadu_si256((const __m256i *)weights);
    return (chunk)_mm512_slli_epi32(_mm512_cvtepu16_epi32(from), 16);
#elif defined(__AVX2__)
    __m128i from = _mm_loadu_si128((const __m128i *)weights);
    return (chunk)_mm256_slli_epi32(_mm256_cvtepu16_epi32(from), 16);
#else
    halves from;
    memcpy(&from, weights, sizeof from);
    return (chunk)(__builtin_convertvector(from, words) << 16);
#endif
}

INLINE chunk widen_int8(const void *weights) {
#if defined(__AVX512F__)
    return (chunk)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)weights)));
#elif defined(__AVX2__)
    return (chunk)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)weights)));
#else
    const int8_t *from = weights;
    float numbers[CHUNK];
    chunk wide;
    for (int i = 0; i < CHUNK; i++) numbers[i] = from[i];
    memcpy(&wide, numbers, sizeof wide);
    return wide;
#endif
}

/* A group of inputs for a chunk of outputs. */
INLINE chunk loaded(enum kind kind, const void *weights) {
    if (kind == WIDENED_BFLOAT16) return widen_bfloat16(weights);
    if (kind == WIDENED_INT8) return widen_int8(weights);
    if (kind == QUADS) /* 128 is added, as the instruction multiplies unsigned numbers */
        return (chunk)((words)as_they_are(weights) ^ 0x80808080u);
    return as_they_are(weights);
}

/* A sum, plus the products of weights with a group of a vector. */
INLINE chunk with_products(enum kind kind, chunk sum, chunk weights, float x) {
#ifdef __AVX512BF16__
    if (kind == PAIRS) return (chunk)_mm512_dpbf16_ps((__m512)sum, (__m512bh)weights, (__m512bh)_mm512_set1_ps(x));
#endif
#ifdef __AVX512VNNI__
    if (kind == QUADS)
        return (chunk)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)weights, (__m512i)_mm512_set1_ps(x));
#endif
    return sum + weights * x;
}

/* The whole product, from the sum of a vector and, of quads, that of its lower halves. */
INLINE chunk total(enum kind kind, chunk sum, chunk lower, const struct rounded *rounded) {
    if (kind != QUADS) return sum;
    whole of_upper = (whole)((words)sum - 128 * rounded->sums[0]);
    whole of_lower = (whole)((words)lower - 128 * rounded->sums[1]);
    chunk all = __builtin_convertvector(of_upper, chunk) * 256 + __builtin_convertvector(of_lower, chunk);
    return all * rounded->factor;
}

INLINE void copy(void *to, const void *from, long n) { /* n numbers, mostly a chunk, which takes no call */
    if (n == CHUNK) memcpy(to, from, sizeof(chunk));
    else memcpy(to, from, 4 * n);
}

/* Up to `rows` vectors from `v` on times some chunks of outputs from `out` on. Where the last vector is missing, the
   one before is multiplied again, which costs less than to compile one more size. Meanwhile the memory from `next` on
   is fetched, `pace` bytes for each group. */
INLINE void tile(enum kind kind, const struct work *work, long v, int rows, long out, int chunks, const char *next,
                 long pace) {
    int parts = PARTS(kind), found = work->n - v < rows ? work->n - v : rows;
    chunk sums[ROWS][ALONE]; /* few of them, in registers: `rows` and `chunks` are constants once this is inlined */
    const char *from[ALONE];
    const float *x[ROWS];
    for (int r = 0; r < rows * parts; r++)
        x[r] = work->x + (v * parts + (r < found * parts ? r : r - parts)) * work->n_groups;
    for (int c = 0; c < chunks; c++) {
        long start = out + c * CHUNK;
        from[c] = work->weights + SIZE(kind) * (start / PANEL * PANEL * work->n_groups + start % PANEL);
        for (int r = 0; r < rows * parts; r++) sums[r][c] = (chunk){0};
    }
    for (long i = 0; i < work->n_groups; i++) {
        chunk weights[ALONE];
        for (int c = 0; c < chunks; c++) weights[c] = loaded(kind, from[c] + SIZE(kind) * PANEL * i);
        if (rows * parts >= 4) {
            __builtin_prefetch(next + i * pace, 0, 2);
            if (STRIPES == 1) __builtin_prefetch(next + i * pace + LINE, 0, 2);
        }
        for (int r = 0; r < rows * parts; r++)
            for (int c = 0; c < chunks; c++) sums[r][c] = with_products(kind, sums[r][c], weights[c], x[r][i]);
    }
    for (int c = 0; c < chunks; c++) {
        long start = out + c * CHUNK, n_out = work->n_out, valid = n_out - start < CHUNK ? n_out - start : CHUNK;
        if (valid <= 0) break;
        chunk factors = (chunk){0} + 1, added = {0};
        if (work->scales) copy(&factors, work->scales + start, valid);
        if (work->bias) copy(&added, work->bias + start, valid);
        for (int r = 0; r < rows; r++) {
            if (r >= found) break;
            chunk all = total(kind, sums[r * parts][c], sums[r * parts + parts - 1][c], work->rounded + v + r);
            all = all * factors + added; /* rounded in the same way for any number of vectors */
            copy(work->y + (v + r) * n_out + start, &all, valid);
        }
    }
}

/* All vectors times the outputs from `out` to `end`, in full panels. */
INLINE void tiles(enum kind kind, const struct work *work, long out, long end) {
    if (work->n == 1) {
        for (; out + ALONE * CHUNK <= end; out += ALONE * CHUNK) tile(kind, work, 0, 1, out, ALONE, work->weights, 0);
        for (; out < end; out += SOME * CHUNK) tile(kind, work, 0, 1, out, SOME, work->weights, 0);
        return;
    }
    long most = ROWS / PARTS(kind) / 2, n_pairs = (work->n + 1) / 2, n_blocks = (n_pairs + most - 1) / most;
    long n_passes = n_blocks * STRIPES, panel = SIZE(kind) * PANEL * work->n_groups;
    long pace = SIZE(kind) * PANEL / n_passes; /* each pass over a panel fetches another part of the next one */
    for (; out < end; out += SOME * CHUNK)
        for (long block = 0, pair = 0; block < n_blocks; block++) { /* of about as many pairs of vectors each */
            long pairs = n_pairs * (block + 1) / n_blocks - pair;
            long pass = out % PANEL / (SOME * CHUNK) * n_blocks + block;
            const char *next = work->weights + out / PANEL * panel;
            next += work->n * PARTS(kind) < MANY ? 0 : panel + panel * pass / n_passes;
            if (pairs == 1) tile(kind, work, 2 * pair, 2, out, SOME, next, pace);
            if (pairs == 2 && most >= 2) tile(kind, work, 2 * pair, 4, out, SOME, next, pace);
            if (pairs == 3 && most >= 3) tile(kind, work, 2 * pair, 6, out, SOME, next, pace);
            if (pairs == 4 && most >= 4) tile(kind, work, 2 * pair, 8, out, SOME, next, pace);
            pair += pairs;
        }
}

#ifdef __AVX512BF16__
/* The vectors in bfloat16 -> [n, n_in / 2]. */
INLINE void in_pairs(const float *x, long n, long n_in, float *to) {
    long n_groups = (n_in + 1) / 2;
    for (long v = 0; v < n; v++)
        for (long i = 0; i < n_in; i += 2 * CHUNK) {
            chunk both[2] = {{0}};
            long valid = n_in - i < 2 * CHUNK ? n_in - i : 2 * CHUNK;
            memcpy(both, x + v * n_in + i, 4 * valid);
            __m512bh pairs = _mm512_cvtne2ps_pbh((__m512)both[1], (__m512)both[0]);
            memcpy(to + v * n_groups + i / 2, &pairs, 4 * ((valid + 1) / 2));
        }
}
#endif

#ifdef __AVX512VNNI__
/* The vectors in whole numbers, 256 times the upper halves plus the lower ones -> [n, 2, n_in / 4]. */
INLINE void in_quads(const float *x, long n, long n_in, struct rounded *rounded, float *to) {
    long n_groups = (n_in + 3) / 4;
    memset(to, 0, n * 2 * n_groups * 4);
    for (long v = 0; v < n; v++) {
        const float *from = x + v * n_in;
        int32_t bits, largest_bits = 0;
        uint32_t sums[2] = {0};
        for (long i = 0; i < n_in; i++) { /* as whole numbers, so that NaN is larger than all others */
            memcpy(&bits, from + i, 4);
            bits &= INT32_MAX;
            largest_bits = bits > largest_bits ? bits : largest_bits;
        }
        float largest;
        memcpy(&largest, &largest_bits, 4);
        /* 0 for an infinite number and NaN, too: 0 times these, at the end, is NaN. */
        float most = 127 * 256 + 127, factor = largest > 1e-30f ? most / largest : 0;
        int8_t *upper = (int8_t *)(to + 2 * v * n_groups), *lower = upper + 4 * n_groups;
        if (factor)
            for (long i = 0; i < n_in; i++) {
                int32_t number = (int32_t)rintf(from[i] * factor), half = (number + 128) >> 8;
                sums[0] += upper[i] = half;
                sums[1] += lower[i] = number - half * 256;
            }
        rounded[v] = (struct rounded){largest / most, {sums[0], sums[1]}};
    }
}
#endif

/* The vectors as they are multiplied, in `scratch` where they are not as they were. */
INLINE const float *converted(enum kind kind, const float *x, long n, long n_in, void *scratch) {
#ifdef __AVX512BF16__
    if (kind == PAIRS) {
        in_pairs(x, n, n_in, scratch);
        return scratch;
    }
#endif
#ifdef __AVX512VNNI__
    if (kind == QUADS) {
        float *to = (float *)((struct rounded *)scratch + n);
        in_quads(x, n, n_in, scratch, to);
        return to;
    }
#endif
    return x;
}

/* The panel up to which threads before `t` multiply their equal shares of the work of several matrices, for a matrix whose
   vectors are those from `start` to `end` of n. */
INLINE long first_panel(long n, long n_panels, long start, long end, long t, long threads) {
    long panel = (n * n_panels * t / threads - start * n_panels) / (end - start);
    return panel < 0 ? 0 : panel > n_panels ? n_panels : panel;
}

/* For each type of weights: x [n, n_in] and a matrix [n_out, n_in] in panels -> y [n, n_out]. `scales` [n_out] are
   factors of the rows of the matrix, and `bias` [n_out] is added; each may be NULL. `scratch` has 2 * n_in + 18 bytes
   for each vector; it is not needed where a group is one input.

   And with several matrices of that shape: the vectors of matrix m are those before ends[m] that belong to no matrix
   before. `scales` are [n_matrices, n_panels * PANEL]. */
#define DEFINE(type, group, kind)                                                                                      \
    const int group_##type = group;                                                                                    \
    void product_##type(const float *x, long n, const void *weights, const float *scales, const float *bias,           \
                        long n_out, long n_in, float *y, void *scratch, int threads) {                                 \
        long n_groups = (n_in + group - 1) / group, n_panels = (n_out + PANEL - 1) / PANEL;                            \
        const float *as_used = converted(kind, x, n, n_in, scratch);                                                   \
        const struct work work = {as_used, scratch, n, weights, scales, bias, n_out, n_groups, y};                     \
        _Pragma("omp parallel for num_threads(threads) schedule(static, 1)")                                           \
        for (long t = 0; t < threads; t++)                                                                             \
            tiles(kind, &work, n_panels * t / threads * PANEL, n_panels * (t + 1) / threads * PANEL);                  \
    }                                                                                                                  \
    void products_##type(const float *x, long n, const int64_t *ends, long n_matrices, const char *weights,            \
                         const float *scales, long n_out, long n_in, float *y, void *scratch, int threads) {           \
        long n_groups = (n_in + group - 1) / group, n_panels = (n_out + PANEL - 1) / PANEL, rows = n_panels * PANEL;   \
        const float *as_used = converted(kind, x, n, n_in, scratch);                                                   \
        _Pragma("omp parallel for num_threads(threads) schedule(static, 1)")                                           \
        for (long t = 0; t < threads; t++)                                                                             \
            for (long m = 0, start = 0; m < n_matrices; start = ends[m++]) {                                           \
                if (ends[m] == start) continue;                                                                        \
                const struct work work = {as_used + start * PARTS(kind) * n_groups,                                    \
                                          (const struct rounded *)scratch + start,                                     \
                                          ends[m] - start,                                                             \
                                          weights + m * rows * n_groups * SIZE(kind),                                  \
                                          scales ? scales + m * rows : NULL,                                           \
                                          NULL,                                                                        \
                                          n_out,                                                                       \
                                          n_groups,                                                                    \
                                          y + start * n_out};                                                          \
                tiles(kind, &work, first_panel(n, n_panels, start, ends[m], t, threads) * PANEL,                       \
                      first_panel(n, n_panels, start, ends[m], t + 1, threads) * PANEL);                               \
            }                                                                                                          \
    }

DEFINE(float32, 1, FLOAT32)
#ifdef __AVX512BF16__
DEFINE(bfloat16, 2, PAIRS)
#else
DEFINE(bfloat16, 1, WIDENED_BFLOAT16)
#endif
#ifdef __AVX512VNNI__
DEFINE(int8, 4, QUADS)
#else
DEFINE(int8, 1, WIDENED_INT8)
#endif
