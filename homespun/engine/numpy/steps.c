/* The work between the products of a decoding step: attention, activations, norms and the routes to experts.
   `products.py` calls this.

   NumPy computes the same in many calls, each of which reads and writes all numbers, and for a batch it calls BLAS for
   each head of each text. Here each text and head is computed by itself, by one thread, so its numbers do not depend on
   the others, nor on the number of threads. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#ifdef __AVX512F__
#define CHUNK 16
#else
#define CHUNK 8
#endif
#define KEYS 4 /* that are compared with a query at a time: as many sums run side by side */
#define AHEAD 32 /* keys, to be fetched from the memory meanwhile */
#define LINE 64  /* bytes that a processor fetches at a time */
#define INLINE static inline __attribute__((always_inline))

typedef float chunk __attribute__((vector_size(4 * CHUNK)));
typedef int32_t whole __attribute__((vector_size(4 * CHUNK)));
typedef uint32_t words __attribute__((vector_size(4 * CHUNK)));
typedef uint16_t halves __attribute__((vector_size(2 * CHUNK)));

INLINE chunk load(const float *from) {
    chunk found;
    memcpy(&found, from, sizeof found);
    return found;
}

/* A number of a cache, in float32 or bfloat16, which is the upper half of a float32. */
INLINE float number_at(const void *from, long i, int narrow) {
    if (!narrow) return ((const float *)from)[i];
    uint32_t bits = (uint32_t)((const uint16_t *)from)[i] << 16;
    float wide;
    memcpy(&wide, &bits, 4);
    return wide;
}

/* A chunk of them. */
INLINE chunk chunk_at(const void *from, long i, int narrow) {
    if (!narrow) return load((const float *)from + i);
#if defined(__AVX2__) && !defined(__AVX512F__) /* the compiler would take more instructions */
    __m128i found = _mm_loadu_si128((const __m128i *)((const uint16_t *)from + i));
    return (chunk)_mm256_slli_epi32(_mm256_cvtepu16_epi32(found), 16);
#else
    halves found;
    memcpy(&found, (const uint16_t *)from + i, sizeof found);
    return (chunk)(__builtin_convertvector(found, words) << 16);
#endif
}

/* n numbers into a cache from number `i` on. The nearest bfloat16 number, of two the even one, as in `bfloat16.py`. */
INLINE void keep(const float *from, long n, void *to, long i, int narrow) {
    if (!narrow) {
        memcpy((float *)to + i, from, 4 * n);
        return;
    }
    for (long j = 0; j < n; j++) {
        uint32_t bits;
        memcpy(&bits, from + j, 4);
        int is_nan = (bits & INT32_MAX) > 0x7f800000; /* rounding would turn some NaNs into infinities */
        ((uint16_t *)to)[i + j] = is_nan ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    }
}

INLINE void store(float *to, chunk numbers) { memcpy(to, &numbers, sizeof numbers); }

INLINE float sum(chunk numbers) {
    float total = 0;
    for (int j = 0; j < CHUNK; j++) total += numbers[j];
    return total;
}

INLINE chunk chosen(whole condition, chunk yes, chunk no) {
    return (chunk)((condition & (whole)yes) | (~condition & (whole)no));
}

/* 2 to the power of y, within 2 units of the last digit of a result near 1, between 2^-126 and 2^126. NaN stays NaN.
   The power of a whole number is an exponent, and that of the rest, between -1/2 and 1/2, the beginning of its series. */
INLINE chunk power_of_two(chunk y) {
    const chunk least = (chunk){0} - 126, most = (chunk){0} + 126;
    y = chosen(y < least, least, chosen(y > most, most, y));
    whole exponent = __builtin_convertvector(y + 127.5f, whole); /* the nearest whole number, and the 127 of a float */
    chunk f = y - __builtin_convertvector(exponent - 127, chunk);
    chunk series = 1.52527338e-5f * f + 1.54035304e-4f;
    series = series * f + 1.33335581e-3f;
    series = series * f + 9.61812911e-3f;
    series = series * f + 5.55041087e-2f;
    series = series * f + 2.40226507e-1f;
    series = series * f + 6.93147181e-1f;
    series = series * f + 1;
    return series * (chunk)(exponent << 23);
}

#define LOG2_E 1.44269504f

/* A query times n keys [n, channels], which begin at number `keys` of the cache -> scores; returns the largest. The
   memory is read all the time: beside the keys the values are fetched, which are needed after the last key, and the first
   keys of the next head. */
INLINE float scored(const float *query, const void *cache, int narrow, long keys, long values, long next_keys, long n,
                    long channels, float scale, float *scores) {
    float largest = -INFINITY;
    for (long s = 0; s < n; s += KEYS) {
        long last = n - 1, later = s + AHEAD, size = narrow ? 2 : 4, from[KEYS];
        for (int j = 0; j < KEYS; j++) from[j] = keys + (s + j < last ? s + j : last) * channels;
        const char *far = (const char *)cache + size * ((later < n ? keys : next_keys - n * channels) + later * channels);
        const char *beside = (const char *)cache + size * (values + s * channels);
        for (long i = 0; i < size * KEYS * channels; i += LINE) {
            __builtin_prefetch(far + i, 0, 2);
            __builtin_prefetch(beside + i, 0, 2);
        }
        chunk sums[KEYS];
        for (int j = 0; j < KEYS; j++) sums[j] = (chunk){0};
        long c = 0;
        for (; c + CHUNK <= channels; c += CHUNK) {
            chunk part = load(query + c);
            for (int j = 0; j < KEYS; j++) sums[j] += part * chunk_at(cache, from[j] + c, narrow);
        }
        float totals[KEYS];
        for (int j = 0; j < KEYS; j++) totals[j] = sum(sums[j]);
        for (; c < channels; c++)
            for (int j = 0; j < KEYS; j++) totals[j] += query[c] * number_at(cache, from[j] + c, narrow);
        for (int j = 0; j < KEYS; j++) { /* behind the end is the last key again, no larger, and there is room */
            scores[s + j] = totals[j] *= scale;
            largest = totals[j] > largest ? totals[j] : largest;
        }
    }
    return largest;
}

/* The sum of n values [n, channels], each times its weight, from channel `c` on -> y. */
INLINE void weighted(const float *weights, const void *cache, int narrow, long values, long n, long channels, long c,
                     int chunks, float factor, float *y) {
    chunk sums[8];
    for (int k = 0; k < chunks; k++) sums[k] = (chunk){0};
    for (long s = 0; s < n; s++)
        for (int k = 0; k < chunks; k++)
            sums[k] += weights[s] * chunk_at(cache, values + s * channels + c + k * CHUNK, narrow);
    for (int k = 0; k < chunks; k++) store(y + c + k * CHUNK, sums[k] * factor);
}

/* Attention of one query to n keys and values -> y [channels]. `scores` has room for n numbers and a chunk. */
INLINE void attended(const float *query, const void *cache, int narrow, long keys, long values, long next_keys, long n,
                     long channels, float *scores, float *y) {
    float scale = 1 / sqrtf(channels);
    float largest = scored(query, cache, narrow, keys, values, next_keys, n, channels, scale, scores);
    chunk sums = {0};
    for (int j = 0; j < CHUNK; j++) scores[n + j] = -INFINITY;
    for (long s = 0; s < n; s += CHUNK) {
        chunk weights = power_of_two((load(scores + s) - largest) * LOG2_E);
        store(scores + s, weights);
        sums += weights; /* those behind the end are too small to count */
    }
    float factor = 1 / sum(sums);
    long c = 0;
    for (; c + 8 * CHUNK <= channels; c += 8 * CHUNK)
        weighted(scores, cache, narrow, values, n, channels, c, 8, factor, y);
    for (; c + 4 * CHUNK <= channels; c += 4 * CHUNK)
        weighted(scores, cache, narrow, values, n, channels, c, 4, factor, y);
    for (; c + CHUNK <= channels; c += CHUNK) weighted(scores, cache, narrow, values, n, channels, c, 1, factor, y);
    for (; c < channels; c++) {
        float total = 0;
        for (long s = 0; s < n; s++) total += scores[s] * number_at(cache, values + s * channels + c, narrow);
        y[c] = total * factor;
    }
}

/* Attention of one new token of each text to itself and to those before it -> y [batch, n_heads, channels].

   heads [batch, n_heads + 2 * n_kv, channels] are queries, keys and values. The keys and values are added at the
   positions [batch] of cache [batch, 2 * n_kv, max_len, channels], in float32 or in bfloat16.
   scratch [threads, max_len + a chunk]. */
#define DEFINE(name, narrow)                                                                                           \
    void attention_##name(const float *heads, void *cache, const int64_t *positions, long batch, long n_heads,         \
                          long n_kv, long channels, long max_len, float *scratch, float *y, int threads) {             \
        long n_items = batch * n_kv, shared_by = n_heads / n_kv;                                                       \
        _Pragma("omp parallel for num_threads(threads) schedule(static, 1)")                                           \
        for (long t = 0; t < threads; t++)                                                                             \
            for (long item = n_items * t / threads; item < n_items * (t + 1) / threads; item++) {                      \
                long text = item / n_kv, head = item % n_kv, position = positions[text];                               \
                const float *own = heads + text * (n_heads + 2 * n_kv) * channels;                                     \
                long keys = (text * 2 * n_kv + head) * max_len * channels, values = keys + n_kv * max_len * channels;  \
                keep(own + (n_heads + head) * channels, channels, cache, keys + position * channels, narrow);          \
                keep(own + (n_heads + n_kv + head) * channels, channels, cache, values + position * channels, narrow); \
                for (long q = head * shared_by; q < (head + 1) * shared_by; q++)                                       \
                    attended(own + q * channels, cache, narrow, keys, values, keys + max_len * channels, position + 1, \
                             channels, scratch + t * (max_len + CHUNK), y + (text * n_heads + q) * channels);          \
            }                                                                                                          \
    }

DEFINE(float32, 0)
DEFINE(bfloat16, 1)

/* x times its sigmoid, where the power of 2 is that of the sigmoid. */
INLINE chunk gated(chunk x, chunk power) { return x / (1 + power_of_two(power)); }

INLINE chunk gelu_of(chunk x) { /* approximated by tanh: tanh(u) = 2 * sigmoid(2 * u) - 1 */
    return gated(x, x * (-2 * 0.7978845608f * LOG2_E) * (1 + 0.044715f * x * x));
}

/* gelu: x [n] in place. */
void gelu(float *x, long n, int threads) {
    _Pragma("omp parallel for num_threads(threads) schedule(static)")
    for (long i = 0; i < n / CHUNK; i++) store(x + i * CHUNK, gelu_of(load(x + i * CHUNK)));
    long rest = n % CHUNK;
    float last[CHUNK] = {0};
    memcpy(last, x + n - rest, 4 * rest);
    store(last, gelu_of(load(last)));
    memcpy(x + n - rest, last, 4 * rest);
}

/* swiglu: silu of x [n, :width] times x [n, width:] -> y [n, width]. */
void swiglu(const float *x, long n, long width, float *y, int threads) {
    _Pragma("omp parallel for num_threads(threads) schedule(static)")
    for (long row = 0; row < n; row++) {
        const float *gate = x + row * 2 * width, *up = gate + width;
        float *to = y + row * width;
        long i = 0;
        for (; i + CHUNK <= width; i += CHUNK)
            store(to + i, gated(load(gate + i), load(gate + i) * -LOG2_E) * load(up + i));
        float last[CHUNK] = {0};
        memcpy(last, gate + i, 4 * (width - i));
        store(last, gated(load(last), load(last) * -LOG2_E));
        for (long j = i; j < width; j++) to[j] = last[j - i] * up[j];
    }
}

/* norm: LayerNorm of the rows of x [n, width] -> y; without a bias (NULL), RMSNorm. */
void norm(const float *x, long n, long width, const float *weight, const float *bias, float eps, float *y) {
    for (long row = 0; row < n; row++) {
        const float *from = x + row * width;
        float *to = y + row * width, mean = 0, squares = 0;
        if (bias) {
            for (long i = 0; i < width; i++) mean += from[i];
            mean /= width;
        }
        for (long i = 0; i < width; i++) squares += (from[i] - mean) * (from[i] - mean);
        float factor = 1 / sqrtf(squares / width + eps);
        for (long i = 0; i < width; i++) to[i] = (from[i] - mean) * factor * weight[i];
        if (bias)
            for (long i = 0; i < width; i++) to[i] += bias[i];
    }
}

/* rotary: norm the first `n_turned` of the heads [batch, n_heads, channels] by RMSNorm with weights [n_turned, channels],
   or not at all (NULL), and turn them by the angles of their positions [batch], in place. tables are cos and sin,
   [2, n_positions, channels]; channel i turns with channel i + channels / 2. */
void rotary(float *heads, const int64_t *positions, long batch, long n_heads, long n_turned, long channels,
            const float *weights, float eps, const float *tables, long n_positions, int threads) {
    long half = channels / 2;
    _Pragma("omp parallel for num_threads(threads) schedule(static)")
    for (long text = 0; text < batch; text++) {
        const float *cosine = tables + positions[text] * channels, *sine = cosine + n_positions * channels;
        for (long head = 0; head < n_turned; head++) {
            float *x = heads + (text * n_heads + head) * channels;
            if (weights) norm(x, 1, channels, weights + head * channels, NULL, eps, x);
            for (long i = 0; i < half; i++) {
                float first = x[i], second = x[i + half];
                x[i] = first * cosine[i] - second * sine[i];
                x[i + half] = second * cosine[i] + first * sine[i];
            }
        }
    }
}

/* route: the k experts of each of n tokens with the largest logits [n, n_experts] -> chosen [n, k], in the order of the
   experts, and weights [n, k], the softmax of their logits. All pairs of a token and an expert are sorted by expert, then
   by token: places [n, k] are their places, tokens [n * k] the tokens in that order, and the pairs of an expert end before
   ends [n_experts]. */
void route(const float *logits, long n, long n_experts, long k, int64_t *chosen, float *weights, int64_t *ends,
           int64_t *places, int64_t *tokens) {
    memset(ends, 0, n_experts * sizeof *ends);
    for (long token = 0; token < n; token++) {
        const float *own = logits + token * n_experts;
        int64_t *experts = chosen + token * k;
        float *shares = weights + token * k, largest = -INFINITY, total = 0;
        for (long e = 0; e < n_experts; e++) { /* the k best so far; NaN, which is not less than another one, stays */
            long worst = 0, found = e < k ? e : k;
            for (long i = 1; i < found; i++)
                if (own[experts[i]] <= own[experts[worst]]) worst = i;
            if (found == k) {
                if (!(own[e] > own[experts[worst]]) && own[e] == own[e]) continue;
                for (found--; worst < found; worst++) experts[worst] = experts[worst + 1];
            }
            experts[found] = e;
        }
        for (long i = 0; i < k; i++) largest = own[experts[i]] > largest ? own[experts[i]] : largest;
        for (long i = 0; i < k; i++) total += shares[i] = expf(own[experts[i]] - largest);
        for (long i = 0; i < k; i++) {
            shares[i] /= total;
            ends[experts[i]]++;
        }
    }
    for (long e = 0, start = 0; e < n_experts; e++) {
        long count = ends[e];
        ends[e] = start; /* until the pairs are placed */
        start += count;
    }
    for (long pair = 0; pair < n * k; pair++) {
        places[pair] = ends[chosen[pair]]++;
        tokens[places[pair]] = pair / k;
    }
}

/* combine: the sum of the outputs [n * k, width] of each token's experts, times their weights [n, k] -> y [n, width]. */
void combine(const float *outputs, const int64_t *places, const float *weights, long n, long k, long width, float *y) {
    memset(y, 0, n * width * sizeof *y);
    for (long pair = 0; pair < n * k; pair++) {
        const float *from = outputs + places[pair] * width;
        float *to = y + pair / k * width, weight = weights[pair];
        for (long i = 0; i < width; i++) to[i] += weight * from[i];
    }
}
