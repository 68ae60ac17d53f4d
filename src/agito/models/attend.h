/* Attention over keys and values in pages of SPAN positions.

   For each layer and head, a page holds keys in blocks of LANES positions, word by word of their width, then values, position by position;
   bfloat16 values are stored in pairs of positions. A query's sums follow the order of the positions, whatever is computed beside it. */

#ifndef AGITO_ATTEND_H
#define AGITO_ATTEND_H

#include "vectors.h"

#define SPAN (4 * LANES)
#if W == 16
#define GROUP 3 /* queries that share a read of the keys */
#else
#define GROUP 1
#endif

typedef struct {
    int is_narrow, width;
    word *const *pages; /* pages of the row */
    size_t offset;      /* of this layer and head's keys within a page, in words; the values follow */
} Cached;

static inline size_t span_words(int is_narrow, int width) { return (size_t)SPAN * width >> is_narrow; }

static void write_cached(const Cached *cached, int position, const float *key, const float *value) {
    int width = cached->width, at = position % SPAN;
    word *keys = cached->pages[position / SPAN] + cached->offset, *values = keys + span_words(cached->is_narrow, width);
    word *block = keys + (size_t)(at / LANES) * (width >> cached->is_narrow) * LANES + at % LANES;
    if (!cached->is_narrow) {
        for (int e = 0; e < width; e++) block[e * LANES] = bits_of(key[e]);
        memcpy(values + (size_t)at * width, value, 4 * (size_t)width);
        return;
    }
    for (int e = 0; e < width / 2; e++) block[e * LANES] = narrowed_one(key[2 * e]) | narrowed_one(key[2 * e + 1]) << 16;
    uint16_t *halves = (uint16_t *)(values + (size_t)(at / 2) * width) + at % 2; /* another thread may write the other half of the pair */
    for (int e = 0; e < width; e++) halves[2 * e] = (uint16_t)narrowed_one(value[e]);
}

/* Attention scores of one page. */
ALWAYS void score(const int is_narrow, const int g, int width, const word *queries, const word *keys, float *scores, int step) {
    int words = width >> is_narrow;
    vec sums[GROUP][4][V];
#pragma GCC unroll 8
    for (int q = 0; q < g; q++)
#pragma GCC unroll 8
        for (int b = 0; b < 4; b++)
#pragma GCC unroll 8
            for (int v = 0; v < V; v++) sums[q][b][v] = splat(0.0f);
    for (int e = 0; e < words; e++)
#pragma GCC unroll 8
        for (int b = 0; b < 4; b++)
#pragma GCC unroll 8
            for (int v = 0; v < V; v++) {
                uvec each = load_words(keys + (b * words + e) * LANES + v * W);
#pragma GCC unroll 8
                for (int q = 0; q < g; q++) sums[q][b][v] = multiply_add(is_narrow, sums[q][b][v], queries[q * words + e], each);
            }
#pragma GCC unroll 8
    for (int q = 0; q < g; q++)
#pragma GCC unroll 8
        for (int b = 0; b < 4; b++)
#pragma GCC unroll 8
            for (int v = 0; v < V; v++) store(scores + q * step + b * LANES + v * W, sums[q][b][v]);
}

/* Weighted sum of `columns` columns of the values from page `first` on; WAYS partial sums hide the latency of additions. */
#define WAYS(columns) (8 * W / (columns) > 0 ? 8 * W / (columns) : 1)
ALWAYS void weighted_sum(const int is_narrow, const int g, const int columns, const Cached *cached, int first, int length, int column, const word *weights,
                int step, float *mixed) {
    const int ways = WAYS(columns), vecs = columns / W;
    int width = cached->width;
    vec sums[GROUP][8][8]; /* ways x vecs of them are used */
#pragma GCC unroll 8
    for (int q = 0; q < g; q++)
#pragma GCC unroll 8
        for (int b = 0; b < ways; b++)
#pragma GCC unroll 8
            for (int v = 0; v < vecs; v++) sums[q][b][v] = splat(0.0f);
    for (int page = first; page * SPAN < length; page++, weights += SPAN >> is_narrow) {
        int count = MIN(SPAN, length - page * SPAN), whole = count >> is_narrow, i = 0;
        const word *values = cached->pages[page] + cached->offset + span_words(is_narrow, width) + column;
        for (; i + ways <= whole; i += ways)
#pragma GCC unroll 8
            for (int b = 0; b < ways; b++)
#pragma GCC unroll 8
                for (int v = 0; v < vecs; v++) {
                    uvec each = load_words(values + (size_t)(i + b) * width + v * W);
#pragma GCC unroll 8
                    for (int q = 0; q < g; q++) sums[q][b][v] = multiply_add(is_narrow, sums[q][b][v], weights[q * step + i + b], each);
                }
        for (; i < (count + is_narrow) >> is_narrow; i++)
#pragma GCC unroll 8
            for (int v = 0; v < vecs; v++) {
                uvec each = load_words(values + (size_t)i * width + v * W);
                if (i == whole) each &= 0xffffu; /* the second position of the last pair may hold anything */
#pragma GCC unroll 8
                for (int q = 0; q < g; q++) sums[q][0][v] = multiply_add(is_narrow, sums[q][0][v], weights[q * step + i], each);
            }
    }
#pragma GCC unroll 8
    for (int q = 0; q < g; q++) {
#pragma GCC unroll 8
        for (int b = 1; b < ways; b++)
#pragma GCC unroll 8
            for (int v = 0; v < vecs; v++) sums[q][0][v] += sums[q][b][v];
#pragma GCC unroll 8
        for (int v = 0; v < vecs; v++) store(mixed + q * width + column + v * W, sums[q][0][v]);
    }
}

/* Softmax without the division: turns scores into weights and returns 1 / their sum. Positions below `hidden` and from `length` on are masked. */
static float softmax(float *scores, int hidden, int length) {
    vec top = splat(HIDDEN), mass = splat(0.0f);
    int end = (length + LANES - 1) / LANES * LANES;
    for (int i = 0; i < hidden; i++) scores[i] = HIDDEN;
    for (int i = length; i < end; i++) scores[i] = HIDDEN;
    for (int i = 0; i < end; i += W) top = larger(load(scores + i), top);
    float greatest = highest(top);
    for (int i = 0; i < end; i += W) {
        vec each = exponential(load(scores + i) - splat(greatest));
        store(scores + i, each);
        mass += each;
    }
    return 1.0f / total(mass);
}

/* `room`: words of a row of scores, and of a query. */
ALWAYS void attend_together(const int is_narrow, const int g, const Cached *cached, int start, int length, const float *queries, float *scores,
                            int step, word *room, float *mixed) {
    int width = cached->width, first = start / SPAN, columns = ((length + SPAN - 1) / SPAN - first) * SPAN, column = 0;
    word *words = room, *weights = room + g * width;
    if (is_narrow)
        to_words(1, g * width, queries, words);
    else
        words = (word *)queries, weights = (word *)scores;
    for (int page = first; page * SPAN < length; page++)
        score(is_narrow, g, width, words, cached->pages[page] + cached->offset, scores + (page - first) * SPAN, step);
    float factors[GROUP];
    for (int q = 0; q < g; q++) {
        factors[q] = softmax(scores + (size_t)q * step, start - first * SPAN, length - first * SPAN);
        if (is_narrow) to_words(1, columns, scores + (size_t)q * step, weights + (size_t)q * step);
    }
    for (; column + 64 <= width; column += 64) weighted_sum(is_narrow, g, 64, cached, first, length, column, weights, step, mixed);
    for (; column + 32 <= width; column += 32) weighted_sum(is_narrow, g, 32, cached, first, length, column, weights, step, mixed);
    for (; column < width; column += 16) weighted_sum(is_narrow, g, 16, cached, first, length, column, weights, step, mixed);
    for (int q = 0; q < g; q++)
        for (int i = 0; i < width; i += W) store(mixed + q * width + i, load(mixed + q * width + i) * splat(factors[q]));
}

typedef void (*Attend)(const Cached *cached, int start, int length, const float *queries, float *scores, int step, word *room, float *mixed);

#define ATTEND(narrow, g)                                                                                                                        \
    static void attend_##narrow##_##g(const Cached *cached, int start, int length, const float *queries, float *scores, int step, word *room, float *mixed) { \
        attend_together(narrow, g, cached, start, length, queries, scores, step, room, mixed);                                                         \
    }
ATTEND(0, 1) ATTEND(1, 1)
#if GROUP == 3
ATTEND(0, 2) ATTEND(0, 3) ATTEND(1, 2) ATTEND(1, 3)
static const Attend attends[2][GROUP] = {{attend_0_1, attend_0_2, attend_0_3}, {attend_1_1, attend_1_2, attend_1_3}};
#else
static const Attend attends[2][GROUP] = {{attend_0_1}, {attend_1_1}};
#endif

/* Attention of `group` consecutive, already scaled queries over positions `start` to `length`. Rows of scores are `step` long; `room` holds
   GROUP of them, and GROUP queries. */
static void attend(const Cached *cached, int group, int start, int length, const float *queries, float *scores, int step, word *room, float *mixed) {
    int parts = (group + GROUP - 1) / GROUP;
    for (int part = 0; part < parts; part++) {
        int first = group * part / parts, g = group * (part + 1) / parts - first;
        size_t at = (size_t)first * cached->width;
        attends[cached->is_narrow][g - 1](cached, start, length, queries + at, scores, step, room, mixed + at);
    }
}

#endif
