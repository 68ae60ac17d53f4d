/* One draw a row by the inverse of the cumulative distribution, in integers, as `sampling.py` makes it on torch. */

#ifndef AGITO_SAMPLE_H
#define AGITO_SAMPLE_H

#include <math.h>

#include "vectors.h"

#define DRAWN 256 /* entries whose mass is added up before it is asked whether the draw lies among them */
#define UNIT 1099511627776.0f

typedef struct {
    int vocab, step, rows; /* `step`: from row to row of the logits, a multiple of LANES; entries behind the vocabulary are HIDDEN */
    const float *logits, *temperatures;
    const double *uniforms;
    int64_t *ids;
    float *logprobs;
} Draws;

/* Shares of 2^40 of entries `at` to `at` + DRAWN; returns their sum. */
static int64_t masses(const float *logits, int at, int end, float heat, float top, float scale, int64_t *shares) {
    int64_t sum = 0;
    int count = MIN(DRAWN, end - at);
    float wide[DRAWN];
    for (int i = 0; i < count; i += W) store(wide + i, exponential(load(logits + at + i) * splat(heat) - splat(top)) * splat(scale));
    for (int i = 0; i < count; i++) shares[i] = (int64_t)wide[i];
    for (int i = 0; i < count; i++) sum += shares[i];
    return sum;
}

static void draw(const Draws *draws, int row) {
    const float *logits = draws->logits + (size_t)row * draws->step;
    float temperature = draws->temperatures[row], heat = temperature > 0 ? 1.0f / temperature : 1.0f;
    int end = draws->step, id = 0;
    vec tops = splat(-3.4e38f);
    for (int i = 0; i < end; i += W) tops = larger(load(logits + i) * splat(heat), tops);
    float top = highest(tops);
    double mass = 0;
    for (int at = 0; at < end; at += DRAWN) {
        vec sums = splat(0.0f);
        for (int i = at; i < MIN(at + DRAWN, end); i += W) sums += exponential(load(logits + i) * splat(heat) - splat(top));
        mass += total(sums);
    }
    if (temperature > 0) {
        int64_t shares[DRAWN], whole = 0, before = 0, target;
        float scale = UNIT / (float)mass;
        int last = 0;
        for (int at = 0; at < end; at += DRAWN) {
            int64_t sum = masses(logits, at, end, heat, top, scale, shares);
            whole += sum;
            if (sum) last = at;
        }
        target = (int64_t)(draws->uniforms[row] * (double)whole);
        for (int at = 0; at <= last; at += DRAWN) {
            int64_t sum = masses(logits, at, end, heat, top, scale, shares);
            if (before + sum > target) {
                for (id = at; before + shares[id - at] <= target; id++) before += shares[id - at];
                break;
            }
            before += sum;
        }
    } else
        while (logits[id] < top) id++;
    draws->ids[row] = id;
    draws->logprobs[row] = (float)((double)(logits[id] * heat - top) - log(mass));
}

#endif
