/* Products of a few vectors with a matrix whose weights have 16 or 8 bits. `products.py` compiles and calls this.

   Generating a token reads every weight once, so its speed is that of the memory, and narrow weights are fast weights.
   Sums are in float32. Each output is computed by one thread, so the number of threads does not change the result.

   A block of a row is widened to float32 in registers, and multiplied with all vectors. The loops have constant lengths,
   from which compilers make vector instructions; where they make bad ones, there are intrinsics. */

#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define CHUNK 16  /* numbers in a vector register, or in several small ones */
#define CHUNKS 4  /* in a block: as many sums run side by side */
#define BLOCK (CHUNK * CHUNKS)
#define VECTORS 4 /* the most vectors that are multiplied at a time */
#define INLINE static inline __attribute__((always_inline))

typedef float chunk __attribute__((vector_size(4 * CHUNK)));
typedef chunk widener(const void *weights, long start);
typedef float reader(const void *weights, long i);

INLINE float read_bfloat16(const void *weights, long i) {
    uint32_t bits = (uint32_t)((const uint16_t *)weights)[i] << 16; /* bfloat16 is the upper half of a float32 */
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

INLINE float read_int8(const void *weights, long i) { return ((const int8_t *)weights)[i]; }

INLINE chunk widen_bfloat16(const void *weights, long start) {
    const uint16_t *from = (const uint16_t *)weights + start;
    chunk wide;
#ifdef __AVX512F__
    __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from));
    wide = (chunk)_mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
#else
    uint32_t bits[CHUNK];
    for (int i = 0; i < CHUNK; i++) bits[i] = (uint32_t)from[i] << 16;
    memcpy(&wide, bits, sizeof wide);
#endif
    return wide;
}

INLINE chunk widen_int8(const void *weights, long start) {
    const int8_t *from = (const int8_t *)weights + start;
    chunk wide;
#ifdef __AVX512F__
    wide = (chunk)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from)));
#else
    float numbers[CHUNK];
    for (int i = 0; i < CHUNK; i++) numbers[i] = from[i];
    memcpy(&wide, numbers, sizeof wide);
#endif
    return wide;
}

/* One row of the matrix, which begins at `first`, times n vectors x [n, n_in] -> y, `n_out` numbers apart. */
INLINE void row_product(widener *widen, reader *read, const float *x, long n, const void *weights, long first,
                        long n_in, float scale, float *y, long n_out) {
    chunk sums[VECTORS][CHUNKS];
    memset(sums, 0, sizeof sums);
    long i = 0;
    for (; i + BLOCK <= n_in; i += BLOCK) {
        chunk row[CHUNKS];
        for (int c = 0; c < CHUNKS; c++) row[c] = widen(weights, first + i + c * CHUNK);
        for (long v = 0; v < n; v++)
            for (int c = 0; c < CHUNKS; c++) {
                chunk part;
                memcpy(&part, x + v * n_in + i + c * CHUNK, sizeof part);
                sums[v][c] += row[c] * part;
            }
    }
    for (long v = 0; v < n; v++) {
        chunk joined = (sums[v][0] + sums[v][1]) + (sums[v][2] + sums[v][3]);
        float total = 0;
        for (int j = 0; j < CHUNK; j++) total += joined[j];
        for (long j = i; j < n_in; j++) total += read(weights, first + j) * x[v * n_in + j];
        y[v * n_out] = total * scale;
    }
}

/* One row times all vectors x [n, n_in]; constant numbers of vectors keep the sums in registers. */
INLINE void row_products(widener *widen, reader *read, const float *x, long n, const void *weights, long first,
                         long n_in, float scale, float *y, long n_out) {
    long v = 0;
    for (; v + 4 <= n; v += 4)
        row_product(widen, read, x + v * n_in, 4, weights, first, n_in, scale, y + v * n_out, n_out);
    for (; v + 2 <= n; v += 2)
        row_product(widen, read, x + v * n_in, 2, weights, first, n_in, scale, y + v * n_out, n_out);
    if (v < n) row_product(widen, read, x + v * n_in, 1, weights, first, n_in, scale, y + v * n_out, n_out);
}

/* For each kind of weights, where `scales` [n_out] are factors of the rows, or NULL:
   product: x [n, n_in] and weights [n_out, n_in] -> y [n, n_out];
   widened: weights [n_out, n_in] -> y, the same in float32. */
#define DEFINE(kind)                                                                                                \
    void product_##kind(const float *x, long n, const void *weights, const float *scales, long n_out, long n_in,    \
                        float *y, int threads) {                                                                    \
        (void)threads;                                                                                              \
        _Pragma("omp parallel for num_threads(threads) schedule(static)")                                           \
        for (long row = 0; row < n_out; row++)                                                                      \
            row_products(widen_##kind, read_##kind, x, n, weights, row * n_in, n_in, scales ? scales[row] : 1,      \
                         y + row, n_out);                                                                           \
    }                                                                                                               \
                                                                                                                    \
    void widened_##kind(const void *weights, const float *scales, long n_out, long n_in, float *y, int threads) {   \
        (void)threads;                                                                                              \
        _Pragma("omp parallel for num_threads(threads) schedule(static)")                                           \
        for (long row = 0; row < n_out; row++) {                                                                    \
            float scale = scales ? scales[row] : 1;                                                                 \
            for (long i = row * n_in; i < (row + 1) * n_in; i++) y[i] = read_##kind(weights, i) * scale;            \
        }                                                                                                           \
    }

DEFINE(bfloat16)
DEFINE(int8)
