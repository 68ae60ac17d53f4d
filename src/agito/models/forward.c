/* One forward pass of the Qwen3 network over a key-value cache, float32, one thread.

   The sums of a token are made in the same order whatever else is in the batch, so its logits do not depend on its neighbours, to the bit.
   Memory is the caller's. Built at first use for the machine it runs on (see native.py): plain C with the vector extensions of GCC and Clang. */

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define W 16
#else
#define W 8
#endif
#define LANES 16           /* columns of a panel of weights, positions of a block of keys; native.py packs by it */
#define V (LANES / W)      /* vectors in as many */
#define ROWS 6             /* rows that one pass over a panel serves */
#define SPAN (4 * LANES)   /* positions whose scores are made together; the cache holds a multiple */

typedef float vec __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * W), aligned(4), may_alias));

typedef struct {
    int32_t hidden, inter, heads, kv_heads, width, vocab, layers, slots, room; /* room: positions of a slot, a multiple of SPAN */
    float eps;
    const float *embedding;    /* vocab x hidden */
    const float *norm, *head;  /* head: packed */
    const float *cosines, *sines; /* room x width, the sign of the rotation in the sines */
    const float *const *weights;  /* layers x {input norm, qkv, query and key norms, out, post norm, gate and up, down}; matrices packed */
    float *keys;   /* layers x slots x kv_heads x room/LANES x width x LANES */
    float *values; /* layers x slots x kv_heads x room x width */
    float *x, *h, *wide, *act, *scores; /* scratch: BLOCK rows each of hidden, hidden, the widest product, inter; room */
} Net;

enum { INPUT_NORM, QKV, QK_NORM, OUT, POST_NORM, GATE_UP, DOWN, NUM_WEIGHTS };
#define BLOCK 64 /* tokens that go through the layers together */

static inline vec splat(float s) { return s - (vec){0}; }

static inline vec load(const float *p) { return *(const vec *)p; }
static inline void store(float *p, vec v) { *(vec *)p = v; }

static inline vec larger(vec a, vec b) {
    ivec is_a = a > b;
    return (vec)((is_a & (ivec)a) | (~is_a & (ivec)b));
}

static inline float total(vec v) {
    float sum = 0;
    for (int i = 0; i < W; i++) sum += v[i];
    return sum;
}

/* e^x within 2 units in the last place for x in [-87, 88], clamped outside. */
static inline vec exponential(vec x) {
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

/* `rows` rows of x times one panel of weights (depth x LANES). */
#define PANEL(rows)                                                                                            \
    static void panel_##rows(int depth, const float *x, int x_step, const float *panel, float *y, int y_step) { \
        vec sums[rows][V];                                                                                     \
        for (int r = 0; r < rows; r++)                                                                         \
            for (int v = 0; v < V; v++) sums[r][v] = splat(0.0f);                                              \
        for (int k = 0; k < depth; k++, panel += LANES) {                                                      \
            vec weights[V];                                                                                    \
            for (int v = 0; v < V; v++) weights[v] = load(panel + v * W);                                      \
            for (int r = 0; r < rows; r++) {                                                                   \
                vec each = splat(x[r * x_step + k]);                                                           \
                for (int v = 0; v < V; v++) sums[r][v] += each * weights[v];                                   \
            }                                                                                                  \
        }                                                                                                      \
        for (int r = 0; r < rows; r++)                                                                         \
            for (int v = 0; v < V; v++) store(y + r * y_step + v * W, sums[r][v]);                             \
    }
PANEL(1) PANEL(2) PANEL(3) PANEL(4) PANEL(5) PANEL(6)

static int padded(int columns) { return (columns + LANES - 1) / LANES * LANES; }

/* y = x times the packed matrix; rows of y are padded(columns) long. */
static void product(int rows, int depth, int columns, const float *x, const float *packed, float *y) {
    static void (*const panels[])(int, const float *, int, const float *, float *, int) = {0, panel_1, panel_2, panel_3, panel_4, panel_5, panel_6};
    int step = padded(columns);
    for (int c = 0; c < step; c += LANES, packed += depth * LANES)
        for (int r = 0; r < rows; r += ROWS) {
            int count = rows - r < ROWS ? rows - r : ROWS;
            panels[count](depth, x + r * depth, depth, packed, y + r * step + c, step);
        }
}

static void normalise(int width, float eps, const float *x, const float *scale, float *y) {
    vec squares = splat(0.0f);
    for (int i = 0; i < width; i += W) squares += load(x + i) * load(x + i);
    float factor = 1.0f / __builtin_sqrtf(total(squares) / width + eps);
    for (int i = 0; i < width; i += W) store(y + i, load(x + i) * splat(factor) * load(scale + i));
}

/* x cos + (x with its halves exchanged) sin, in place. */
static void rotate(int width, float *x, const float *cosines, const float *sines) {
    int half = width / 2;
    for (int i = 0; i < half; i++) {
        float first = x[i], second = x[i + half];
        x[i] = first * cosines[i] + second * sines[i];
        x[i + half] = second * cosines[i + half] + first * sines[i + half];
    }
}

/* `columns` columns of the values, weighted by the scores; WAYS sums side by side hide the latency of an addition. */
#define WAYS(columns) (8 * W / (columns) > 0 ? 8 * W / (columns) : 1)
#define MIX(columns)                                                                                                                      \
    static void mix_##columns(int length, int width, const float *scores, const float *values, vec factor, float *mixed) {                \
        vec sums[WAYS(columns)][columns / W];                                                                                             \
        for (int b = 0; b < WAYS(columns); b++)                                                                                           \
            for (int v = 0; v < columns / W; v++) sums[b][v] = splat(0.0f);                                                               \
        int i = 0;                                                                                                                        \
        for (; i + WAYS(columns) <= length; i += WAYS(columns))                                                                           \
            for (int b = 0; b < WAYS(columns); b++)                                                                                       \
                for (int v = 0; v < columns / W; v++) sums[b][v] += splat(scores[i + b]) * load(values + (size_t)(i + b) * width + v * W); \
        for (; i < length; i++)                                                                                                           \
            for (int v = 0; v < columns / W; v++) sums[0][v] += splat(scores[i]) * load(values + (size_t)i * width + v * W);              \
        for (int b = 1; b < WAYS(columns); b++)                                                                                           \
            for (int v = 0; v < columns / W; v++) sums[0][v] += sums[b][v];                                                               \
        for (int v = 0; v < columns / W; v++) store(mixed + v * W, sums[0][v] * factor);                                                  \
    }
MIX(16) MIX(32) MIX(64)

/* One query over the first `length` positions of a slot; the scale is in the query. */
static void attend(int width, int length, const float *query, const float *keys, const float *values, float *scores, float *mixed) {
    vec top = splat(-3.0e38f);
    for (int at = 0; at < length; at += SPAN) {
        vec sums[4][V];
        for (int b = 0; b < 4; b++)
            for (int v = 0; v < V; v++) sums[b][v] = splat(0.0f);
        const float *block = keys + (size_t)at * width;
        for (int e = 0; e < width; e++) {
            vec each = splat(query[e]);
            for (int b = 0; b < 4; b++)
                for (int v = 0; v < V; v++) sums[b][v] += each * load(block + (b * width + e) * LANES + v * W);
        }
        for (int b = 0; b < 4; b++)
            for (int v = 0; v < V; v++) store(scores + at + b * LANES + v * W, sums[b][v]);
    }
    int end = (length + LANES - 1) / LANES * LANES;
    for (int i = length; i < end; i++) scores[i] = -3.0e38f;
    for (int i = 0; i < end; i += W) top = larger(load(scores + i), top);
    float highest = top[0];
    for (int i = 1; i < W; i++) highest = top[i] > highest ? top[i] : highest;
    vec mass = splat(0.0f);
    for (int i = 0; i < end; i += W) {
        vec each = exponential(load(scores + i) - splat(highest));
        store(scores + i, each);
        mass += each;
    }
    vec factor = splat(1.0f / total(mass));
    int c = 0;
    for (; c + 64 <= width; c += 64) mix_64(length, width, scores, values + c, factor, mixed + c);
    for (; c + 32 <= width; c += 32) mix_32(length, width, scores, values + c, factor, mixed + c);
    for (; c < width; c += 16) mix_16(length, width, scores, values + c, factor, mixed + c);
}

static void add(int count, float *x, const float *y) {
    for (int i = 0; i < count; i += W) store(x + i, load(x + i) + load(y + i));
}

static void layer(const Net *net, int index, int num, const int32_t *slots, const int32_t *positions) {
    int hidden = net->hidden, inter = net->inter, heads = net->heads, kv_heads = net->kv_heads, width = net->width;
    int step = (heads + 2 * kv_heads) * width, room = net->room;
    const float *const *weights = net->weights + index * NUM_WEIGHTS;
    for (int t = 0; t < num; t++) normalise(hidden, net->eps, net->x + t * hidden, weights[INPUT_NORM], net->h + t * hidden);
    product(num, hidden, step, net->h, weights[QKV], net->wide);
    for (int t = 0; t < num; t++) {
        float *row = net->wide + t * step;
        const float *cosines = net->cosines + positions[t] * width, *sines = net->sines + positions[t] * width;
        for (int a = 0; a < heads + kv_heads; a++) {
            normalise(width, net->eps, row + a * width, weights[QK_NORM] + a * width, row + a * width);
            rotate(width, row + a * width, cosines, sines);
        }
        size_t first = ((size_t)index * net->slots + slots[t]) * kv_heads;
        for (int k = 0; k < kv_heads; k++) {
            const float *key = row + (heads + k) * width;
            float *block = net->keys + ((first + k) * room + positions[t] / LANES * LANES) * width + positions[t] % LANES;
            for (int e = 0; e < width; e++) block[e * LANES] = key[e];
            memcpy(net->values + ((first + k) * room + positions[t]) * width, row + (heads + kv_heads + k) * width, 4 * width);
        }
    }
    int group = heads / kv_heads;
    for (int t = 0; t < num; t++) {
        size_t first = ((size_t)index * net->slots + slots[t]) * kv_heads;
        for (int a = 0; a < heads; a++) {
            size_t from = (first + a / group) * room * width;
            attend(width, positions[t] + 1, net->wide + t * step + a * width, net->keys + from, net->values + from, net->scores,
                   net->act + (t * heads + a) * width);
        }
    }
    product(num, heads * width, hidden, net->act, weights[OUT], net->h);
    add(num * hidden, net->x, net->h);
    for (int t = 0; t < num; t++) normalise(hidden, net->eps, net->x + t * hidden, weights[POST_NORM], net->h + t * hidden);
    product(num, hidden, 2 * inter, net->h, weights[GATE_UP], net->wide);
    for (int t = 0; t < num; t++)
        for (int i = 0; i < inter; i += W) {
            vec gate = load(net->wide + (size_t)t * 2 * inter + i), up = load(net->wide + (size_t)t * 2 * inter + inter + i);
            store(net->act + t * inter + i, gate / (splat(1.0f) + exponential(-gate)) * up);
        }
    product(num, inter, hidden, net->act, weights[DOWN], net->h);
    add(num * hidden, net->x, net->h);
}

/* Appends `num` tokens at (slot, position), those of a slot in ascending order; wherever `wants` is set, the logits after that token go to the
   next row of `logits`, padded(vocab) long. */
void agito_forward(const Net *net, int num, const int64_t *ids, const int32_t *slots, const int32_t *positions, const uint8_t *wants, float *logits) {
    int hidden = net->hidden;
    for (int at = 0; at < num; at += BLOCK) {
        int count = num - at < BLOCK ? num - at : BLOCK, wanted = 0;
        for (int t = 0; t < count; t++) memcpy(net->x + t * hidden, net->embedding + ids[at + t] * hidden, 4 * hidden);
        for (int index = 0; index < net->layers; index++) layer(net, index, count, slots + at, positions + at);
        for (int t = 0; t < count; t++)
            if (wants[at + t]) normalise(hidden, net->eps, net->x + t * hidden, net->norm, net->h + hidden * wanted++);
        product(wanted, hidden, net->vocab, net->h, net->head, logits);
        logits += (size_t)wanted * padded(net->vocab);
    }
}
