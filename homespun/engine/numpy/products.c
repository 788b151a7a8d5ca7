/* Products of vectors with matrices whose weights have 32, 16 or 8 bits. `products.py` calls this.

   A matrix [n_out, n_in] lies in panels of PANEL rows: [n_out / PANEL, n_in, PANEL], the last one filled up with zeros.
   So the weights are read in the order of the memory, once for up to ROWS vectors, and each of them is multiplied with
   all these vectors while it is in a register.

   Sums are in float32. An output is the sum of its products in the order of the inputs, whatever the number of vectors
   and of threads: a text gets the same bits alone and beside others. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#define PANEL 32 /* as in `panels.py` */
#ifdef __AVX512F__
#define CHUNK 16 /* numbers in a vector register, or in two where they are smaller */
#define ROWS 8   /* so many vectors are multiplied at a time: their sums fill the registers */
#else
#define CHUNK 8
#define ROWS 4
#endif
#define ALONE 8 /* chunks of outputs at a time for a single vector: as many sums run side by side */
#define SOME 2  /* chunks of outputs at a time for several vectors */
#define AHEAD 4096 /* bytes: several vectors take long enough to fetch the weights that come next */
#define INLINE static inline __attribute__((always_inline))

typedef float chunk __attribute__((vector_size(4 * CHUNK)));
typedef uint32_t words __attribute__((vector_size(4 * CHUNK)));
typedef uint16_t halves __attribute__((vector_size(2 * CHUNK)));
typedef chunk widener(const void *weights);

INLINE chunk widen_float32(const void *weights) {
    chunk wide;
    memcpy(&wide, weights, sizeof wide);
    return wide;
}

INLINE chunk widen_bfloat16(const void *weights) { /* bfloat16 is the upper half of a float32 */
#ifdef __AVX512F__
    __m256i from = _mm256_loadu_si256((const __m256i *)weights);
    return (chunk)_mm512_slli_epi32(_mm512_cvtepu16_epi32(from), 16);
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

/* `rows` vectors x [rows, n_in] times some chunks of outputs from `out` on -> y [rows, n_out]. */
INLINE void tile(widener *widen, long size, const float *x, int rows, int chunks, const char *weights,
                 const float *scales, const float *bias, long out, long n_out, long n_in, float *y) {
    chunk sums[ROWS][ALONE]; /* few of them, in registers: `rows` and `chunks` are constants once this is inlined */
    const char *from[ALONE];
    for (int c = 0; c < chunks; c++) {
        long start = out + c * CHUNK;
        from[c] = weights + size * (start / PANEL * PANEL * n_in + start % PANEL);
        for (int v = 0; v < rows; v++) sums[v][c] = (chunk){0};
    }
    for (long i = 0; i < n_in; i++) {
        chunk row[ALONE];
        for (int c = 0; c < chunks; c++) row[c] = widen(from[c] + size * PANEL * i);
        if (rows >= 4) __builtin_prefetch(from[0] + size * PANEL * i + AHEAD, 0, 2);
        for (int v = 0; v < rows; v++)
            for (int c = 0; c < chunks; c++) sums[v][c] += row[c] * x[v * n_in + i];
    }
    for (int c = 0; c < chunks; c++) {
        long start = out + c * CHUNK, valid = n_out - start < CHUNK ? n_out - start : CHUNK;
        if (valid <= 0) break;
        chunk factors = (chunk){0} + 1, added = {0};
        if (scales) memcpy(&factors, scales + start, 4 * valid);
        if (bias) memcpy(&added, bias + start, 4 * valid);
        for (int v = 0; v < rows; v++) {
            chunk all = sums[v][c] * factors + added; /* rounded in the same way for any number of vectors */
            memcpy(y + v * n_out + start, &all, 4 * valid);
        }
    }
}

/* n vectors x [n, n_in] times the outputs from `out` to `end`, in full panels -> y [n, n_out]. */
INLINE void tiles(widener *widen, long size, const float *x, long n, const char *weights, const float *scales,
                  const float *bias, long out, long end, long n_out, long n_in, float *y) {
    if (n == 1)
        for (; out + ALONE * CHUNK <= end; out += ALONE * CHUNK)
            tile(widen, size, x, 1, ALONE, weights, scales, bias, out, n_out, n_in, y);
    for (; out < end; out += SOME * CHUNK) {
        long v = 0;
#define TAKE(rows)                                                                                                     \
    for (; v + rows <= n; v += rows)                                                                                   \
        tile(widen, size, x + v * n_in, rows, SOME, weights, scales, bias, out, n_out, n_in, y + v * n_out);
        TAKE(ROWS)
        TAKE(4)
        TAKE(2)
        TAKE(1)
    }
}

/* For each kind of weights: x [n, n_in] and a matrix [n_out, n_in] in panels -> y [n, n_out]. `scales` [n_out] are
   factors of the rows of the matrix, and `bias` [n_out] is added; each may be NULL. */
#define DEFINE(kind, size)                                                                                             \
    void product_##kind(const float *x, long n, const void *weights, const float *scales, const float *bias,           \
                        long n_out, long n_in, float *y, int threads) {                                                \
        long n_panels = (n_out + PANEL - 1) / PANEL;                                                                   \
        _Pragma("omp parallel for num_threads(threads) schedule(static, 1)")                                           \
        for (long t = 0; t < threads; t++)                                                                             \
            tiles(widen_##kind, size, x, n, weights, scales, bias, n_panels * t / threads * PANEL,                     \
                  n_panels * (t + 1) / threads * PANEL, n_out, n_in, y);                                               \
    }

DEFINE(float32, 4)
DEFINE(bfloat16, 2)
DEFINE(int8, 1)
