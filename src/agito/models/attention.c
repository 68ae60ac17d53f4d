/* Attention of many tokens at once and its gradient, in bfloat16: what the learner needs, where the processor multiplies bfloat16.

   Each token sees the whole prefix, and its own sequence up to itself. Products take bfloat16 and sum in float32; the softmax is float32.
   A key head and the query heads that read it are computed together: a row is one query of one head. Keys are numbered prefix first.
   Threads share the key heads. */

#include "product.h"
#include "team.h"

#define ROWS 48  /* queries per pass over the keys, about */
#define KEYS 64  /* keys per step of the backward pass */
#define ALIGN 32 /* ranges of keys begin and end at its multiples */

typedef struct {
    int32_t tokens, past, heads, kv_heads, width, threads;
    float scale;
    const int32_t *starts; /* of each token: the first token of its sequence */
    /* tokens x heads or kv_heads x width; past x kv_heads x width. Norms: tokens x heads */
    const uint16_t *q, *k, *v, *past_k, *past_v;
    uint16_t *out;
    float *norm;
    /* backward only */
    const uint16_t *d_out;
    uint16_t *d_q, *d_k, *d_v, *d_past_k, *d_past_v;
} Attention;

static int up_to(int count, int multiple) { return (count + multiple - 1) / multiple * multiple; }
static int most_tokens(int group) { return MAX(1, ROWS / group); }
static void *room_for(size_t words) { return aligned_alloc(64, (4 * words + 63) / 64 * 64); }

/* The row of key or value `key` in the prefix or in the sequences. */
static const word *row_of(const Attention *a, const uint16_t *past, const uint16_t *own, int key, int head) {
    const uint16_t *from = key < a->past ? past : own;
    return (const word *)(from + ((size_t)(key < a->past ? key : key - a->past) * a->kv_heads + head) * a->width);
}

/* Rows of one head, adjacent, zeros after the last. */
static void gather(const Attention *a, const uint16_t *past, const uint16_t *own, int head, int keys, word *rows) {
    int words = a->width / 2, num = a->past + a->tokens;
    for (int key = 0; key < num; key++) memcpy(rows + (size_t)key * words, row_of(a, past, own, key, head), 4 * (size_t)words);
    memset(rows + (size_t)num * words, 0, 4 * (size_t)(keys - num) * words);
}

/* Packs rows of bfloat16 pairs as the columns of a matrix; their number is a multiple of LANES. */
static void pack_columns(int num, int words, const word *rows, word *packed) {
    for (int unit = 0, step; unit < num / LANES; unit++) {
        word *target = (word *)columns_at(packed, words, num / LANES, unit, &step);
        for (int e = 0; e < words; e++)
            for (int lane = 0; lane < LANES; lane++) target[(size_t)e * step + lane] = rows[((size_t)unit * LANES + lane) * words + e];
    }
}

/* Packs rows of bfloat16 pairs as the depth of a matrix, two rows to a word; their number is even. */
static void pack_depth(int num, int width, const word *rows, word *packed) {
    int words = width / 2, units = width / LANES;
    for (int unit = 0, step; unit < units; unit++) {
        word *target = (word *)columns_at(packed, num / 2, units, unit, &step);
        for (int pair = 0; pair < num / 2; pair++)
            for (int e = 0; e < LANES / 2; e++) {
                word first = rows[(size_t)2 * pair * words + unit * LANES / 2 + e], second = rows[(size_t)(2 * pair + 1) * words + unit * LANES / 2 + e];
                target[(size_t)pair * step + 2 * e] = (first & 0xffffu) | second << 16;
                target[(size_t)pair * step + 2 * e + 1] = first >> 16 | (second & 0xffff0000u);
            }
    }
}

/* The keys that tokens `first` to `last` may see: the prefix, then a part of the sequences; columns number both without the gap between. */
typedef struct {
    int before, from, until; /* keys of the first range, and both ends of the second */
} Range;

static Range range_of(const Attention *a, int first, int last, int keys) {
    int before = up_to(a->past, ALIGN), from = MAX(before, (a->past + a->starts[first]) / ALIGN * ALIGN);
    return (Range){before, from, MAX(from, MIN(keys, up_to(a->past + last + 1, ALIGN)))};
}

/* Softmax of one row of scores in place, without the division; returns the sum, and the greatest scaled score. */
static float weigh(float *scores, int past, int from, int until, int columns, float scale, float *greatest) {
    vec top = splat(HIDDEN), mass = splat(0.0f);
    for (int i = past; i < from; i++) scores[i] = HIDDEN;
    for (int i = until; i < columns; i++) scores[i] = HIDDEN;
    for (int i = 0; i < columns; i += W) top = larger(load(scores + i), top);
    float most = highest(top);
    for (int i = 0; i < columns; i += W) {
        vec each = exponential((load(scores + i) - splat(most)) * splat(scale));
        store(scores + i, each);
        mass += each;
    }
    for (int i = past; i < from; i++) scores[i] = 0.0f; /* e^-87 of what is not seen is too much if a value is huge */
    for (int i = until; i < columns; i++) scores[i] = 0.0f;
    *greatest = most * scale;
    return total(mass);
}

static void forward_head(const Attention *a, int head) {
    int width = a->width, words = width / 2, group = a->heads / a->kv_heads, keys = up_to(a->past + a->tokens, ALIGN);
    int most = most_tokens(group), rows = most * group;
    word *gathered = room_for((size_t)keys * words), *keys_packed = room_for((size_t)keys * words), *values_packed = room_for((size_t)keys * words);
    word *queries = room_for((size_t)rows * words), *weights = room_for((size_t)rows * keys / 2);
    float *scores = room_for((size_t)rows * keys), *mixed = room_for((size_t)rows * width), *factors = room_for(rows);
    gather(a, a->past_k, a->k, head, keys, gathered);
    pack_columns(keys, words, gathered, keys_packed);
    gather(a, a->past_v, a->v, head, keys, gathered);
    pack_depth(keys, width, gathered, values_packed);
    Matrix key_matrix = {1, words, keys, keys_packed, NULL}, value_matrix = {1, keys / 2, width, values_packed, NULL};
    for (int first = 0; first < a->tokens; first += most) {
        int count = MIN(most, a->tokens - first), num = count * group;
        Range range = range_of(a, first, first + count - 1, keys);
        int columns = range.before + range.until - range.from, shift = range.from - range.before;
        for (int t = 0; t < count; t++)
            memcpy(queries + (size_t)t * group * words, a->q + ((size_t)(first + t) * a->heads + head * group) * width, 4 * (size_t)group * words);
        product_part(&key_matrix, num, queries, words, 0, range.before / LANES, 0, words, scores, columns, 1);
        product_part(&key_matrix, num, queries, words, range.from / LANES, range.until / LANES, 0, words, scores + range.before, columns, 1);
        for (int r = 0; r < num; r++) {
            int t = first + r / group, from = a->past + a->starts[t] - shift, until = a->past + t + 1 - shift;
            float *row = scores + (size_t)r * columns, greatest, sum = weigh(row, a->past, from, until, columns, a->scale, &greatest);
            to_words(1, columns, row, weights + (size_t)r * columns / 2);
            a->norm[(size_t)t * a->heads + head * group + r % group] = greatest + logf(sum);
            factors[r] = 1.0f / sum;
        }
        product_part(&value_matrix, num, weights, columns / 2, 0, width / LANES, 0, range.before / 2, mixed, width, 1);
        product_part(&value_matrix, num, weights + range.before / 2, columns / 2, 0, width / LANES, range.from / 2, (range.until - range.from) / 2, mixed,
                     width, range.before == 0);
        for (int r = 0; r < num; r++) {
            float *row = mixed + (size_t)r * width;
            for (int e = 0; e < width; e += W) store(row + e, load(row + e) * splat(factors[r]));
            to_words(1, width, row, (word *)(a->out + ((size_t)(first + r / group) * a->heads + head * group + r % group) * width));
        }
    }
    free(gathered), free(keys_packed), free(values_packed), free(queries), free(weights), free(scores), free(mixed), free(factors);
}

/* What the backward pass holds of one block of rows. */
typedef struct {
    int num, padded; /* rows, and rows up to a multiple of ALIGN */
    word *queries, *slopes, *query_columns, *slope_columns, *query_depth, *slope_depth;
    float *norms, *shares;   /* log of the softmax's denominator; sum of output times its gradient */
    int32_t *starts, *tokens; /* of each row */
    float *d_queries;         /* width x padded */
    float *scores, *d_scores; /* KEYS x padded */
    word *weights, *d_weights, *d_depth;
} Block;

static void load_block(const Attention *a, int head, int first, int count, Block *block) {
    int width = a->width, words = width / 2, group = a->heads / a->kv_heads;
    block->num = count * group, block->padded = up_to(block->num, ALIGN);
    for (int r = 0; r < block->padded; r++) {
        word *query = block->queries + (size_t)r * words, *slope = block->slopes + (size_t)r * words;
        if (r >= block->num) {
            memset(query, 0, 4 * (size_t)words), memset(slope, 0, 4 * (size_t)words);
            block->norms[r] = -HIDDEN, block->shares[r] = 0, block->starts[r] = 0, block->tokens[r] = -1;
            continue;
        }
        int t = first + r / group;
        size_t at = (size_t)t * a->heads + head * group + r % group;
        memcpy(query, a->q + at * width, 4 * (size_t)words);
        memcpy(slope, a->d_out + at * width, 4 * (size_t)words);
        const word *out = (const word *)(a->out + at * width);
        vec sum = splat(0.0f);
        for (int i = 0; i < words; i += W) {
            uvec x = load_words(out + i), y = load_words(slope + i);
            sum += even(x) * even(y) + odd(x) * odd(y);
        }
        block->norms[r] = a->norm[at], block->shares[r] = total(sum), block->starts[r] = a->starts[t], block->tokens[r] = t;
    }
    pack_columns(block->padded, words, block->queries, block->query_columns);
    pack_columns(block->padded, words, block->slopes, block->slope_columns);
    pack_depth(block->padded, width, block->queries, block->query_depth);
    pack_depth(block->padded, width, block->slopes, block->slope_depth);
    memset(block->d_queries, 0, 4 * (size_t)width * block->padded);
}

/* Turns scores and gradients of the weights, for one key, into weights and gradients of the scores. */
static void weigh_back(const Attention *a, const Block *block, int key, float *scores, float *d_scores) {
    ivec own = key - a->past + (ivec){0};
    for (int r = 0; r < block->padded; r += W) {
        vec p = exponential(load(scores + r) * splat(a->scale) - load(block->norms + r));
        if (key >= a->past) p = (vec)((ivec)p & (*(const ivec *)(block->starts + r) <= own) & (*(const ivec *)(block->tokens + r) >= own));
        store(scores + r, p);
        store(d_scores + r, p * (load(d_scores + r) - load(block->shares + r)) * splat(a->scale));
    }
}

static void backward_keys(const Attention *a, Block *block, int key, int count, int keys, const word *key_rows, const word *value_rows,
                          const word *key_pairs, float *d_keys, float *d_values) {
    int width = a->width, words = width / 2, padded_rows = block->padded, units = padded_rows / LANES;
    Matrix query_columns = {1, words, padded_rows, block->query_columns, NULL}, slope_columns = {1, words, padded_rows, block->slope_columns, NULL};
    Matrix query_depth = {1, padded_rows / 2, width, block->query_depth, NULL}, slope_depth = {1, padded_rows / 2, width, block->slope_depth, NULL};
    Matrix d_depth = {1, count / 2, padded_rows, block->d_depth, NULL};
    product_part(&query_columns, count, key_rows + (size_t)key * words, words, 0, units, 0, words, block->scores, padded_rows, 1);
    product_part(&slope_columns, count, value_rows + (size_t)key * words, words, 0, units, 0, words, block->d_scores, padded_rows, 1);
    for (int i = 0; i < count; i++) {
        float *scores = block->scores + (size_t)i * padded_rows, *d_scores = block->d_scores + (size_t)i * padded_rows;
        weigh_back(a, block, key + i, scores, d_scores);
        to_words(1, padded_rows, scores, block->weights + (size_t)i * padded_rows / 2);
        to_words(1, padded_rows, d_scores, block->d_weights + (size_t)i * padded_rows / 2);
    }
    pack_depth(count, padded_rows, block->d_weights, block->d_depth);
    product_part(&slope_depth, count, block->weights, padded_rows / 2, 0, width / LANES, 0, padded_rows / 2, d_values + (size_t)key * width, width, 0);
    product_part(&query_depth, count, block->d_weights, padded_rows / 2, 0, width / LANES, 0, padded_rows / 2, d_keys + (size_t)key * width, width, 0);
    product_part(&d_depth, width, key_pairs + key / 2, keys / 2, 0, units, 0, count / 2, block->d_queries, padded_rows, 0);
}

static void store_rows(const Attention *a, int head, const float *rows, uint16_t *past, uint16_t *own) {
    for (int key = 0; key < a->past + a->tokens; key++)
        to_words(1, a->width, rows + (size_t)key * a->width, (word *)row_of(a, past, own, key, head));
}

static void backward_head(const Attention *a, int head) {
    int width = a->width, words = width / 2, group = a->heads / a->kv_heads, keys = up_to(a->past + a->tokens, ALIGN);
    int most = most_tokens(group), rows = up_to(most * group, ALIGN);
    size_t all = (size_t)keys * words, some = (size_t)rows * words, square = (size_t)KEYS * rows;
    word *arena = room_for(3 * all + 6 * some + square / 2 * 3 + 64 * 13), *next = arena;
#define TAKE(count) (next += up_to(count, 16), next - up_to(count, 16))
    word *key_rows = TAKE(all), *value_rows = TAKE(all), *key_pairs = TAKE(all);
    Block block = {.queries = TAKE(some), .slopes = TAKE(some), .query_columns = TAKE(some), .slope_columns = TAKE(some)};
    block.query_depth = TAKE(some), block.slope_depth = TAKE(some);
    block.weights = TAKE(square / 2), block.d_weights = TAKE(square / 2), block.d_depth = TAKE(square / 2);
#undef TAKE
    float *sums = room_for(4 * all + 2 * some + 2 * square + 2 * (size_t)rows), *d_keys = sums, *d_values = sums + 2 * all;
    block.d_queries = sums + 4 * all, block.scores = block.d_queries + 2 * some, block.d_scores = block.scores + square;
    block.norms = block.d_scores + square, block.shares = block.norms + rows;
    int32_t *places = room_for(2 * (size_t)rows);
    block.starts = places, block.tokens = places + rows;
    memset(sums, 0, 4 * 4 * all);
    gather(a, a->past_k, a->k, head, keys, key_rows);
    gather(a, a->past_v, a->v, head, keys, value_rows);
    for (int pair = 0; pair < keys / 2; pair++)
        for (int e = 0; e < words; e++) {
            word first = key_rows[(size_t)2 * pair * words + e], second = key_rows[(size_t)(2 * pair + 1) * words + e];
            key_pairs[(size_t)2 * e * (keys / 2) + pair] = (first & 0xffffu) | second << 16;
            key_pairs[(size_t)(2 * e + 1) * (keys / 2) + pair] = first >> 16 | (second & 0xffff0000u);
        }
    for (int first = 0; first < a->tokens; first += most) {
        int count = MIN(most, a->tokens - first);
        Range range = range_of(a, first, first + count - 1, keys);
        load_block(a, head, first, count, &block);
        for (int key = 0; key < range.before; key += KEYS)
            backward_keys(a, &block, key, MIN(KEYS, range.before - key), keys, key_rows, value_rows, key_pairs, d_keys, d_values);
        for (int key = range.from; key < range.until; key += KEYS)
            backward_keys(a, &block, key, MIN(KEYS, range.until - key), keys, key_rows, value_rows, key_pairs, d_keys, d_values);
        for (int r = 0; r < block.num; r++) {
            uint16_t *row = a->d_q + ((size_t)(first + r / group) * a->heads + head * group + r % group) * width;
            for (int e = 0; e < width; e++) row[e] = (uint16_t)narrowed_one(block.d_queries[(size_t)e * block.padded + r]);
        }
    }
    store_rows(a, head, d_keys, a->d_past_k, a->d_k);
    store_rows(a, head, d_values, a->d_past_v, a->d_v);
    free(arena), free(sums), free(places);
}

typedef struct {
    const Attention *attention;
    void (*run)(const Attention *, int head);
    int threads;
} Heads;

static void run_heads(void *what, int id) {
    const Heads *heads = what;
    for (int head = id; head < heads->attention->kv_heads; head += heads->threads) heads->run(heads->attention, head);
}

static void run_all(const Attention *attention, void (*run)(const Attention *, int)) {
    Team *team = agito_team(MAX(1, MIN(attention->threads, attention->kv_heads)));
    Heads heads = {attention, run, team->size};
    run_team(team, run_heads, &heads);
    agito_disband(team);
}

void agito_attend(const Attention *attention) { run_all(attention, forward_head); }
void agito_attend_backward(const Attention *attention) { run_all(attention, backward_head); }
