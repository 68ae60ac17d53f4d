/* One sample per row by inverting the cumulative distribution in integer arithmetic, as `sampling.py` does with torch. */

#ifndef AGITO_SAMPLE_H
#define AGITO_SAMPLE_H

#include <math.h>
#include <stdlib.h>

#include "vectors.h"

#define DRAWN 256 /* entries summed at once before testing whether they contain the sample */
#define UNIT 1099511627776.0f

typedef struct {
    int vocab, step, rows; /* `step`: row stride of the logits, a multiple of LANES; entries past the vocabulary are HIDDEN */
    const float *logits, *temperatures, *top_ps; /* top_ps: NULL for no truncation */
    const double *uniforms;
    int64_t *ids;
    float *logprobs;
} Draws;

/* Probabilities of entries `at` to `at` + DRAWN, in units of 2^-40; returns their sum. */
static int64_t probabilities(const float *logits, int at, int end, float inverse_temperature, float top, float scale, int64_t *shares) {
    int64_t sum = 0;
    int count = MIN(DRAWN, end - at);
    float wide[DRAWN];
    for (int i = 0; i < count; i += W) store(wide + i, exponential(load(logits + at + i) * splat(inverse_temperature) - splat(top)) * splat(scale));
    for (int i = 0; i < count; i++) shares[i] = (int64_t)wide[i];
    for (int i = 0; i < count; i++) sum += shares[i];
    return sum;
}

typedef struct {
    int64_t share;
    int id;
} Entry;

static int by_share(const void *a, const void *b) {
    const Entry *one = a, *other = b;
    if (one->share != other->share) return one->share < other->share ? 1 : -1;
    return one->id - other->id;
}

static int by_id(const void *a, const void *b) { return ((const Entry *)a)->id - ((const Entry *)b)->id; }

/* Top-p sampling, ties by ascending id; returns the id, and in `held` the probability mass of the kept entries. Looks only at entries near
   the top until they hold `top_p`. */
static int sample_top_p(const float *logits, int end, float inverse_temperature, float top, float scale, float top_p, double uniform, double *held) {
    Entry *entries = malloc(sizeof *entries * end);
    int64_t whole = 0, sum = 0, before = 0, shares[DRAWN];
    int num = 0, kept = 0, id = 0;
    for (int at = 0; at < end; at += DRAWN) whole += probabilities(logits, at, end, inverse_temperature, top, scale, shares);
    for (float depth = 8; depth < 1e9f && sum < whole && (double)sum < (double)top_p * (double)whole; depth *= depth) {
        num = 0, sum = 0;
        for (int at = 0; at < end; at += DRAWN) {
            probabilities(logits, at, end, inverse_temperature, top, scale, shares);
            for (int i = at; i < MIN(at + DRAWN, end); i++)
                if (shares[i - at] && logits[i] * inverse_temperature >= top - depth) entries[num++] = (Entry){shares[i - at], i}, sum += shares[i - at];
        }
    }
    qsort(entries, num, sizeof *entries, by_share);
    for (sum = 0; kept < num && (!kept || (double)sum < (double)top_p * (double)whole); kept++) sum += entries[kept].share;
    qsort(entries, kept, sizeof *entries, by_id);
    int64_t target = (int64_t)(uniform * (double)sum);
    for (int at = 0; at < kept && before <= target; at++) before += entries[at].share, id = entries[at].id;
    free(entries);
    *held = (double)sum / (double)whole;
    return id;
}

/* As above, from all entries. */
static int sample_all(const float *logits, int end, float inverse_temperature, float top, float scale, double uniform) {
    int64_t shares[DRAWN], whole = 0, before = 0;
    int last = 0, id = 0;
    for (int at = 0; at < end; at += DRAWN) {
        int64_t sum = probabilities(logits, at, end, inverse_temperature, top, scale, shares);
        whole += sum;
        if (sum) last = at;
    }
    int64_t target = (int64_t)(uniform * (double)whole);
    for (int at = 0; at <= last; at += DRAWN) {
        int64_t sum = probabilities(logits, at, end, inverse_temperature, top, scale, shares);
        if (before + sum > target) {
            for (id = at; id < MIN(at + DRAWN, end) - 1 && before + shares[id - at] <= target; id++) before += shares[id - at];
            break;
        }
        before += sum;
    }
    return id;
}

static void draw(const Draws *draws, int row) {
    const float *logits = draws->logits + (size_t)row * draws->step;
    float temperature = draws->temperatures[row], inverse_temperature = temperature > 0 ? 1.0f / temperature : 1.0f, scale;
    float top_p = draws->top_ps ? draws->top_ps[row] : 1.0f;
    int end = draws->step, id = 0;
    double mass = 0, held = 1;
    vec tops = splat(-3.4e38f);
    for (int i = 0; i < end; i += W) tops = larger(load(logits + i) * splat(inverse_temperature), tops);
    float top = highest(tops);
    for (int at = 0; at < end; at += DRAWN) {
        vec sums = splat(0.0f);
        for (int i = at; i < MIN(at + DRAWN, end); i += W) sums += exponential(load(logits + i) * splat(inverse_temperature) - splat(top));
        mass += total(sums);
    }
    scale = UNIT / (float)mass;
    if (top_p < 1) id = sample_top_p(logits, end, inverse_temperature, top, scale, top_p, draws->uniforms[row], &held);
    if (temperature <= 0)
        for (id = 0; logits[id] < top;) id++;
    else if (top_p >= 1)
        id = sample_all(logits, end, inverse_temperature, top, scale, draws->uniforms[row]);
    draws->ids[row] = id;
    draws->logprobs[row] = (float)((double)(logits[id] * inverse_temperature - top) - log(mass * held));
}

#endif
