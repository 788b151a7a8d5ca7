/* Tokens drawn from logits, each with a random number. `products.py` calls this.

   `sampler.py` computes the same with NumPy, which takes several times as long: it has many calls for each text, and on
   some processors its exponential function takes one number at a time. Both compute with 64 bits and differ in the last
   digits, so they draw the same token, unless a random number is that close to the border of two tokens. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __AVX512F__
#define LANES 8 /* numbers of 64 bits in a vector register */
#else
#define LANES 4
#endif
#define AT_ONCE 8 /* vectors */
#define BLOCK 64  /* scores whose weights are summed up at once, as in `sampler.py` */
#define INLINE static inline __attribute__((always_inline))

typedef float floats __attribute__((vector_size(4 * LANES)));
typedef double doubles __attribute__((vector_size(8 * LANES)));
typedef int32_t wholes __attribute__((vector_size(4 * LANES)));
typedef int64_t longs __attribute__((vector_size(8 * LANES)));

static const double TERMS[] = {1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120,
                               1.0 / 24,     1.0 / 6,     1.0 / 2,    1,         1};
#define N_TERMS (int)(sizeof TERMS / sizeof *TERMS)

/* How a token is drawn. A score below `floor` has no weight, and the `largest` one the weight 1. */
struct distribution {
    double largest, floor;
    double rate; /* turns a difference of scores into an exponent of 2 */
};

/* A block of n scores from number `first` on; NaN behind the last one. */
INLINE void take(const float *scores, long n, long first, floats *block) {
    if (first + BLOCK <= n) {
        memcpy(block, scores + first, sizeof(float) * BLOCK);
        return;
    }
    float last[BLOCK];
    for (long i = 0; i < BLOCK; i++) last[i] = first + i < n ? scores[first + i] : NAN;
    memcpy(block, last, sizeof last);
}

/* 2 to the power of each y, between 2^-1022 and 1, in place. The power of a whole number is an exponent, and that of the
   rest, between -1/2 and 1/2, is e to the power of x, the beginning of its series. Several vectors take their terms in
   turn, since each term waits for the one before. */
INLINE void powers_of_two(doubles *y) {
    wholes exponents[AT_ONCE];
    doubles x[AT_ONCE], series[AT_ONCE];
    for (int k = 0; k < AT_ONCE; k++) {
        exponents[k] = __builtin_convertvector(y[k] + 1023.5, wholes); /* the nearest one, and the 1023 of a double */
        x[k] = (y[k] - __builtin_convertvector(exponents[k] - 1023, doubles)) * M_LN2;
        series[k] = x[k] * (1.0 / 39916800) + 1.0 / 3628800;
    }
    for (int i = 0; i < N_TERMS; i++)
        for (int k = 0; k < AT_ONCE; k++) series[k] = series[k] * x[k] + TERMS[i];
    for (int k = 0; k < AT_ONCE; k++)
        y[k] = series[k] * (doubles)(__builtin_convertvector(exponents[k], longs) << 52);
}

/* The weights of a block. */
INLINE void weigh(const floats *block, struct distribution from, doubles *weights) {
    const doubles least = (doubles){0} - 1022;
    for (int k = 0; k < BLOCK / LANES; k += AT_ONCE) {
        longs counts[AT_ONCE];
        for (int j = 0; j < AT_ONCE; j++) {
            doubles scores = __builtin_convertvector(block[k + j], doubles), y = (scores - from.largest) * from.rate;
            counts[j] = (scores >= from.floor) & (y > least); /* neither where there is NaN */
            weights[k + j] = (doubles)((counts[j] & (longs)y) | (~counts[j] & (longs)least));
        }
        powers_of_two(weights + k);
        for (int j = 0; j < AT_ONCE; j++) weights[k + j] = (doubles)(counts[j] & (longs)weights[k + j]);
    }
}

/* Whether all n scores are finite, and the largest of them. */
static int are_finite(const float *scores, long n, float *largest) {
    int32_t bits, most = INT32_MIN, farthest = 0; /* as whole numbers, whose largest one several lanes find */
    for (long i = 0; i < n; i++) {
        memcpy(&bits, scores + i, 4);
        int32_t in_order = bits ^ (bits >> 31 & INT32_MAX), size = bits & INT32_MAX;
        most = in_order > most ? in_order : most;
        farthest = size > farthest ? size : farthest;
    }
    bits = most ^ (most >> 31 & INT32_MAX);
    memcpy(largest, &bits, 4);
    return farthest < 0x7f800000;
}

/* The first of n scores that is as large as `largest`. */
static long place_of(float largest, const float *scores, long n) {
    for (long i = 0; i < n; i++)
        if (scores[i] == largest) return i;
    return -1;
}

/* As `draw`, for one text. */
static long draw_one(const float *scores, long n, const double *settings, double *sums, int *is_random) {
    double temperature = settings[0], number = settings[2];
    float largest;
    *is_random = 0;
    if (!are_finite(scores, n, &largest)) return -1;
    if (temperature == 0) return place_of(largest, scores, n);

    struct distribution from = {largest, largest + temperature * settings[1], M_LOG2E / temperature};
    long n_blocks = (n + BLOCK - 1) / BLOCK;
    longs counts = {0};
    double total = 0;
    floats block[BLOCK / LANES];
    doubles weights[BLOCK / LANES];
    for (long b = 0; b < n_blocks; b++) {
        take(scores, n, b * BLOCK, block);
        weigh(block, from, weights);
        doubles sum = {0};
        for (int k = 0; k < BLOCK / LANES; k++) {
            sum += weights[k];
            counts += weights[k] > 0; /* true is -1 */
        }
        for (int i = 0; i < LANES; i++) total += sum[i];
        sums[b] = total;
    }
    long n_kept = 0;
    for (int i = 0; i < LANES; i++) n_kept -= counts[i];
    if (n == 1 || (n_kept == 1 && from.floor > -INFINITY)) return place_of(largest, scores, n);

    *is_random = 1;
    double point = number * total;
    if (point >= total) point = nextafter(total, 0); /* by rounding: no token lies beyond the end */
    long b = 0, drawn = 0;
    while (sums[b] <= point) b++;
    take(scores, n, b * BLOCK, block);
    weigh(block, from, weights);
    const double *one = (const double *)weights;
    double reached = b ? sums[b - 1] : 0;
    for (long i = 0; i < BLOCK && reached <= point; i++)
        if (one[i] > 0) reached += one[i], drawn = b * BLOCK + i; /* the last one, if rounding keeps it from the point */
    return drawn;
}

/* A token of each text: scores [batch] have n logits each, and settings [batch, 3] are a temperature, the logarithm of
   the least share of the largest probability that a token needs, and a random number below 1. With temperature 0 it is
   the first of the likeliest tokens.
   -> tokens [batch], -1 where a logit is not finite, and are_random [batch]: whether the number was needed.
   `sums` has room for a number for each block of a text. */
void draw(const float *const *scores, long batch, long n, const double *settings, double *sums, int64_t *tokens,
          int *are_random) {
    for (long text = 0; text < batch; text++)
        tokens[text] = draw_one(scores[text], n, settings + 3 * text, sums, are_random + text);
}
