/* Float vectors through the extensions of GCC and Clang, and bfloat16 in pairs.

   A word is 32 bits of a matrix: one float, or two bfloat16 consecutive along the depth, the first in the lower half. So matrices of both
   precisions have the same memory layout in words. */

#ifndef AGITO_VECTORS_H
#define AGITO_VECTORS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define W 16
#else
#define W 8
#endif
#define LANES 16      /* adjacent columns of a packed matrix; positions in a block of keys */
#define V (LANES / W) /* vectors per LANES */
#define HIDDEN -3.0e38f /* score of what is not seen */

typedef float vec __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef uint32_t uvec __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef uint32_t word;

#define ALWAYS static inline __attribute__((always_inline))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

ALWAYS vec splat(float s) { return s - (vec){0}; }
ALWAYS uvec splat_word(word s) { return s - (uvec){0}; }
ALWAYS vec load(const float *p) { return *(const vec *)p; }
ALWAYS void store(float *p, vec v) { *(vec *)p = v; }
ALWAYS uvec load_words(const word *p) { return *(const uvec *)p; }
ALWAYS void store_words(word *p, uvec v) { *(uvec *)p = v; }

/* The two halves of bfloat16 pairs. */
ALWAYS vec even(uvec pairs) { return (vec)(pairs << 16); }
ALWAYS vec odd(uvec pairs) { return (vec)(pairs & 0xffff0000u); }

/* Rounds to bfloat16 in the lower half of each word, to nearest, ties to even. */
ALWAYS uvec narrowed(vec x) {
    uvec bits = (uvec)x;
    return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}
ALWAYS word narrowed_one(float x) {
    word bits;
    memcpy(&bits, &x, 4);
    return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}
ALWAYS float widened_one(word half) {
    float x;
    half <<= 16;
    memcpy(&x, &half, 4);
    return x;
}
ALWAYS word bits_of(float x) {
    word bits;
    memcpy(&bits, &x, 4);
    return bits;
}
ALWAYS float float_of(word bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

/* `sum` plus, lane by lane, the products of a word of x with words of a matrix. */
ALWAYS vec multiply_add(const int is_narrow, vec sum, word x, uvec matrix) {
    if (!is_narrow) return sum + splat(float_of(x)) * (vec)matrix;
#if defined(__AVX512BF16__) && W == 16
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)splat_word(x), (__m512bh)matrix);
#else
    sum += splat(float_of(x << 16)) * even(matrix);
    return sum + splat(float_of(x & 0xffff0000u)) * odd(matrix);
#endif
}

ALWAYS vec larger(vec a, vec b) {
    ivec is_a = a > b;
    return (vec)((is_a & (ivec)a) | (~is_a & (ivec)b));
}

ALWAYS float total(vec v) {
    float sum = 0;
    for (int i = 0; i < W; i++) sum += v[i];
    return sum;
}

ALWAYS float highest(vec v) {
    float top = v[0];
    for (int i = 1; i < W; i++) top = v[i] > top ? v[i] : top;
    return top;
}

/* e^x within 2 units in the last place for x in [-87, 88], clamped outside. */
ALWAYS vec exponential(vec x) {
    const vec magic = splat(12582912.0f); /* 1.5 x 2^23: rounds to the nearest integer */
    x = -larger(-larger(x, splat(-87.0f)), splat(-88.0f));
    vec shifted = x * splat(1.44269504088896341f) + magic;
    vec n = shifted - magic;
    vec f = x - n * splat(0.693359375f) + n * splat(2.12194440e-4f);
    vec y = splat(1.9875691500e-4f);
    y = y * f + splat(1.3981999507e-3f);
    y = y * f + splat(8.3334519073e-3f);
    y = y * f + splat(4.1665795894e-2f);
    y = y * f + splat(1.6666665459e-1f);
    y = y * f + splat(5.0000001201e-1f);
    y = y * f * f + f + splat(1.0f);
    ivec power = ((ivec)shifted - (ivec)magic + 127) << 23;
    return y * (vec)power;
}

/* A row of floats as words: unchanged, or rounded to bfloat16 pairs. */
ALWAYS void to_words(const int is_narrow, int count, const float *x, word *y) {
    if (!is_narrow) {
        memcpy(y, x, 4 * (size_t)count);
        return;
    }
#if defined(__AVX512BF16__) && W == 16
    for (int i = 0; i + 32 <= count; i += 32)
        store_words(y + i / 2, (uvec)_mm512_cvtne2ps_pbh((__m512)load(x + i + 16), (__m512)load(x + i)));
    for (int i = count / 32 * 32; i < count; i += 2) y[i / 2] = narrowed_one(x[i]) | narrowed_one(x[i + 1]) << 16;
#else
    for (int i = 0; i < count; i += 2) y[i / 2] = narrowed_one(x[i]) | narrowed_one(x[i + 1]) << 16;
#endif
}

#endif
