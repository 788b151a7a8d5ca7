/* Products of a few vectors with a matrix whose weights have 16 or 8 bits. `products.py` compiles and calls this.

   Generating a token reads every weight once, so its speed is that of the memory, and narrow weights are fast weights.
   Sums are in float32. Each output is computed by one thread, so the number of threads does not change the result.

   A block of a row is widened to float32 in registers, and multiplied with some vectors. The loops have constant lengths,
   from which compilers make vector instructions; where they make bad ones, there are intrinsics. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#ifdef __AVX512F__
#define CHUNK 16 /* numbers in a vector register, or in two where they are smaller */
#define SIDE 4   /* so many vectors are multiplied with one row, or with as many rows: their sums fill the registers */
#else
#define CHUNK 8
#define SIDE 2
#endif
#define CHUNKS 4 /* in a block: as many sums run side by side */
#define BLOCK (CHUNK * CHUNKS)
#define INLINE static inline __attribute__((always_inline))

typedef float chunk __attribute__((vector_size(4 * CHUNK)));
typedef uint32_t words __attribute__((vector_size(4 * CHUNK)));
typedef uint16_t halves __attribute__((vector_size(2 * CHUNK)));
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
#ifdef __AVX512F__
    __m256i from = _mm256_loadu_si256((const __m256i *)((const uint16_t *)weights + start));
    return (chunk)_mm512_slli_epi32(_mm512_cvtepu16_epi32(from), 16);
#else
    halves from;
    memcpy(&from, (const uint16_t *)weights + start, sizeof from);
    return (chunk)(__builtin_convertvector(from, words) << 16);
#endif
}

INLINE chunk widen_int8(const void *weights, long start) {
    const int8_t *from = (const int8_t *)weights + start;
#if defined(__AVX512F__)
    return (chunk)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from)));
#elif defined(__AVX2__)
    return (chunk)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from)));
#else
    float numbers[CHUNK];
    chunk wide;
    for (int i = 0; i < CHUNK; i++) numbers[i] = from[i];
    memcpy(&wide, numbers, sizeof wide);
    return wide;
#endif
}

/* The sum of the chunks of a row, and of the products of its last numbers, which fill no block. */
INLINE float joined(const chunk sums[CHUNKS], reader *read, const float *x, const void *weights, long first, long n_in) {
    chunk all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    float total = 0;
    for (int j = 0; j < CHUNK; j++) total += all[j];
#pragma GCC unroll 1 /* less to compile */
    for (long j = n_in - n_in % BLOCK; j < n_in; j++) total += read(weights, first + j) * x[j];
    return total;
}

/* One row of the matrix, which begins at `first`, times n vectors x [n, n_in] -> y, `n_out` numbers apart. */
INLINE void row_product(widener *widen, reader *read, const float *x, long n, const void *weights, long first,
                        long n_in, float scale, float *y, long n_out) {
    chunk sums[SIDE][CHUNKS];
    memset(sums, 0, sizeof sums);
    for (long i = 0; i + BLOCK <= n_in; i += BLOCK) {
        chunk row[CHUNKS];
        for (int c = 0; c < CHUNKS; c++) row[c] = widen(weights, first + i + c * CHUNK);
        for (long v = 0; v < n; v++)
            for (int c = 0; c < CHUNKS; c++) {
                chunk part;
                memcpy(&part, x + v * n_in + i + c * CHUNK, sizeof part);
                sums[v][c] += row[c] * part;
            }
    }
    for (long v = 0; v < n; v++)
        y[v * n_out] = joined(sums[v], read, x + v * n_in, weights, first, n_in) * scale;
}

/* One row times all vectors x [n, n_in]; constant numbers of vectors keep the sums in registers. */
INLINE void row_products(widener *widen, reader *read, const float *x, long n, const void *weights, long first,
                         long n_in, float scale, float *y, long n_out) {
    long v = 0;
    for (; v + SIDE <= n; v += SIDE)
        row_product(widen, read, x + v * n_in, SIDE, weights, first, n_in, scale, y + v * n_out, n_out);
    for (; v + 2 <= n; v += 2)
        row_product(widen, read, x + v * n_in, 2, weights, first, n_in, scale, y + v * n_out, n_out);
    if (v < n) row_product(widen, read, x + v * n_in, 1, weights, first, n_in, scale, y + v * n_out, n_out);
}

/* SIDE rows, which begin at `first`, times SIDE vectors x [SIDE, n_in] -> y [SIDE, SIDE], `n_out` numbers apart. All
   that is loaded is used SIDE times. The sums are those of `row_product`, in the same order, so the number of vectors
   does not change the result. */
INLINE void tile_product(widener *widen, reader *read, const float *x, const void *weights, long first, long n_in,
                         const float *scales, float *y, long n_out) {
    chunk sums[SIDE][SIDE][CHUNKS];
    for (int c = 0; c < CHUNKS; c++) {
        chunk here[SIDE][SIDE];
        memset(here, 0, sizeof here);
        for (long i = 0; i + BLOCK <= n_in; i += BLOCK) {
            chunk row[SIDE];
            for (int r = 0; r < SIDE; r++) row[r] = widen(weights, first + r * n_in + i + c * CHUNK);
            for (int v = 0; v < SIDE; v++) {
                chunk part;
                memcpy(&part, x + v * n_in + i + c * CHUNK, sizeof part);
                for (int r = 0; r < SIDE; r++) here[v][r] += row[r] * part;
            }
        }
        for (int v = 0; v < SIDE; v++)
            for (int r = 0; r < SIDE; r++) sums[v][r][c] = here[v][r];
    }
#pragma GCC unroll 1
    for (int i = 0; i < SIDE * SIDE; i++) {
        int v = i / SIDE, r = i % SIDE;
        y[v * n_out + r] = joined(sums[v][r], read, x + v * n_in, weights, first + r * n_in, n_in) *
                           (scales ? scales[r] : 1);
    }
}

/* Some rows, at most SIDE, times all vectors x [n, n_in]. The first vectors fetch each row from memory in its order,
   and the tiles find it in the cache. */
INLINE void products_of_rows(widener *widen, reader *read, const float *x, long n, const void *weights, long first,
                             long n_rows, long n_in, const float *scales, float *y, long n_out) {
    long v = n < 2 * SIDE || n_rows < SIDE ? n : SIDE + n % SIDE;
    for (long r = 0; r < n_rows; r++)
        row_products(widen, read, x, v, weights, first + r * n_in, n_in, scales ? scales[r] : 1, y + r, n_out);
    for (; v < n; v += SIDE)
        tile_product(widen, read, x + v * n_in, weights, first, n_in, scales, y + v * n_out, n_out);
}

/* For each kind of weights, where `scales` [n_out] are factors of the rows, or NULL:
   product: x [n, n_in] and weights [n_out, n_in] -> y [n, n_out];
   widened: weights [n_out, n_in] -> y, the same in float32. */
#define DEFINE(kind)                                                                                                \
    void product_##kind(const float *x, long n, const void *weights, const float *scales, long n_out, long n_in,    \
                        float *y, int threads) {                                                                    \
        (void)threads;                                                                                              \
        _Pragma("omp parallel for num_threads(threads) schedule(static)")                                           \
        for (long row = 0; row < n_out; row += SIDE)                                                                \
            products_of_rows(widen_##kind, read_##kind, x, n, weights, row * n_in,                                  \
                             row + SIDE <= n_out ? SIDE : n_out - row, n_in, scales ? scales + row : NULL, y + row, \
                             n_out);                                                                                \
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
