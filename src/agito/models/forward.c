/* One forward pass of the dense decoder over a key-value cache in pages, and sampling from its logits.

   A token's sums run in the same order whatever the batch and the number of threads, so its logits are the same bits. The caller owns all
   memory. Built at first use for the machine that it runs on (see native.py). */

#include "attend.h"
#include "product.h"
#include "sample.h"
#include "team.h"

#define BLOCK 128 /* tokens per pass through the layers */

/* NULL: the layer has no such part. Norms include their offset, and the query norm includes the attention scale. */
typedef struct {
    const float *input_norm, *qk_norm, *mixed_norm, *mlp_norm, *mlp_out_norm;
    const float *qkv_bias, *out_bias, *gate_up_bias, *down_bias;
    const word *qkv, *out, *gate_up, *down; /* packed */
    const float *cosines, *sines;           /* positions x width, the sign of the rotation in the sines */
    int64_t window;                         /* positions seen, including the token's own; 0: all */
    const word *low[4], *high[4];           /* of qkv, out, gate_up and down: an adapter's two matrices, packed */
    int64_t rank[4];                        /* a multiple of LANES; 0: no adapter */
} Layer;

enum { QKV, OUT, GATE_UP, DOWN };

typedef struct {
    int32_t hidden, inter, heads, kv_heads, width, vocab, layers, slots, num_pages; /* num_pages: per slot */
    int32_t is_narrow, is_gelu;
    float eps, query_scale, embedding_scale; /* query_scale: used without a query norm */
    const word *embedding;     /* vocab x hidden; NULL: use the head */
    const float *norm;
    const word *head; /* packed */
    const Layer *each;
    word *const *pages; /* slots x num_pages */
    Team *team;
    float *x, *wide, *added, *mixed, *scores; /* scratch: BLOCK x hidden, the widest product, hidden; heads x width, and what `attend` needs, a thread */
    word *h, *act;                            /* BLOCK x hidden, max(inter, heads x width) */
    float *between;                           /* BLOCK x the largest rank; and as words */
    word *between_words;
} Net;

typedef struct {
    const Net *net;
    int num;
    const int64_t *ids;
    const int32_t *slots, *positions;
    const uint8_t *wants;
    float *logits;
} Pass;

static void normalise(int width, float eps, const float *x, const float *scale, float *y) {
    vec squares = splat(0.0f);
    for (int i = 0; i < width; i += W) squares += load(x + i) * load(x + i);
    float factor = 1.0f / __builtin_sqrtf(total(squares) / width + eps);
    for (int i = 0; i < width; i += W) store(y + i, load(x + i) * splat(factor) * load(scale + i));
}

/* x cos + swap(x) sin in place, where swap exchanges the halves. */
static void rotate(int width, float *x, const float *cosines, const float *sines) {
    int half = width / 2;
    for (int i = 0; i < half; i++) {
        float first = x[i], second = x[i + half];
        x[i] = first * cosines[i] + second * sines[i];
        x[i + half] = second * cosines[i + half] + first * sines[i + half];
    }
}

static void add(int count, float *x, const float *y) {
    for (int i = 0; i < count; i += W) store(x + i, load(x + i) + load(y + i));
}

/* Input rows of the next product; `room` holds one row of floats. */
static void normalise_to_words(const Net *net, const float *x, const float *scale, word *y, float *room) {
    normalise(net->hidden, net->eps, x, scale, room);
    to_words(net->is_narrow, net->hidden, room, y);
}

/* Adds the output of attention or MLP to the residual stream. */
static void finish(const Net *net, float *x, float *added, const float *norm) {
    if (norm) normalise(net->hidden, net->eps, added, norm, added);
    add(net->hidden, x, added);
}

/* The gate's activation: SiLU, or tanh-approximated GELU, which is x times the logistic function of twice tanh's argument. */
static void gate(const Net *net, float *wide) {
    float *up = wide + net->inter;
    for (int i = 0; i < net->inter; i += W) {
        vec x = load(wide + i), inner = x;
        if (net->is_gelu) inner = x * splat(1.5957691216057308f) * (splat(1.0f) + splat(0.044715f) * x * x);
        store(wide + i, x / (splat(1.0f) + exponential(-inner)) * load(up + i));
    }
}

static Cached cached_of(const Net *net, int slot, int index, int kv_head) {
    size_t offset = ((size_t)index * net->kv_heads + kv_head) * 2 * span_words(net->is_narrow, net->width);
    return (Cached){.is_narrow = net->is_narrow, .width = net->width, .pages = net->pages + (size_t)slot * net->num_pages, .offset = offset};
}

/* Prepares queries and keys for attention; stores keys and values in their page. */
static void place(const Net *net, const Layer *layer, int index, int slot, int position, float *row) {
    int heads = net->heads, kv_heads = net->kv_heads, width = net->width;
    const float *cosines = layer->cosines + (size_t)position * width, *sines = layer->sines + (size_t)position * width;
    for (int a = 0; a < heads + kv_heads; a++) {
        if (layer->qk_norm) normalise(width, net->eps, row + a * width, layer->qk_norm + a * width, row + a * width);
        rotate(width, row + a * width, cosines, sines);
    }
    if (!layer->qk_norm)
        for (int i = 0; i < heads * width; i += W) store(row + i, load(row + i) * splat(net->query_scale));
    for (int k = 0; k < kv_heads; k++) {
        Cached cached = cached_of(net, slot, index, k);
        write_cached(&cached, position, row + (heads + k) * width, row + (heads + kv_heads + k) * width);
    }
}

/* Part `id` of y = x times matrix plus bias, plus what an adapter adds. With one, x is read by all threads before any of them goes on. */
static void adapted(const Net *net, const Layer *layer, int which, const Matrix *matrix, int rows, const word *x, float *y, int id) {
    int narrow = net->is_narrow, threads = net->team->size, rank = (int)layer->rank[which];
    if (rank) {
        Matrix low = {narrow, matrix->depth, rank, layer->low[which], NULL};
        product(&low, rows, x, net->between, id, threads);
        wait_for_all(net->team);
        for (int t = id; t < rows; t += threads) to_words(narrow, rank, net->between + (size_t)t * rank, net->between_words + (size_t)t * (rank >> narrow));
        wait_for_all(net->team);
    }
    product(matrix, rows, x, y, id, threads);
    if (rank) {
        Matrix high = {narrow, rank >> narrow, matrix->columns, layer->high[which], NULL};
        add_product(&high, rows, net->between_words, y, id, threads);
    }
}

/* The part of thread `id`. Between products it owns the tokens t with t % threads == id. */
static void pass_layer(const Pass *pass, int index, int at, int num, int id) {
    const Net *net = pass->net;
    const Layer *layer = net->each + index;
    int hidden = net->hidden, inter = net->inter, heads = net->heads, kv_heads = net->kv_heads, width = net->width, threads = net->team->size;
    int narrow = net->is_narrow, group = heads / kv_heads, step = (heads + 2 * kv_heads) * width, room = net->num_pages * SPAN;
    float *scores = net->scores + (size_t)id * (group * room + GROUP * (room + width)), *mixed = net->mixed + (size_t)id * MAX(heads * width, hidden);
    word *words = (word *)(scores + (size_t)group * room);
    Matrix qkv = {narrow, hidden >> narrow, step, layer->qkv, layer->qkv_bias};
    Matrix out = {narrow, heads * width >> narrow, hidden, layer->out, layer->out_bias};
    Matrix gate_up = {narrow, hidden >> narrow, 2 * inter, layer->gate_up, layer->gate_up_bias};
    Matrix down = {narrow, inter >> narrow, hidden, layer->down, layer->down_bias};

    for (int t = id; t < num; t += threads) normalise_to_words(net, net->x + (size_t)t * hidden, layer->input_norm, net->h + (size_t)t * qkv.depth, mixed);
    wait_for_all(net->team);
    adapted(net, layer, QKV, &qkv, num, net->h, net->wide, id);
    wait_for_all(net->team);
    for (int t = id; t < num; t += threads) place(net, layer, index, pass->slots[at + t], pass->positions[at + t], net->wide + (size_t)t * step);
    wait_for_all(net->team);
    for (int unit = id; unit < num * kv_heads; unit += threads) {
        int t = unit / kv_heads, k = unit % kv_heads, length = pass->positions[at + t] + 1;
        int start = layer->window && length > layer->window ? length - (int)layer->window : 0;
        Cached cached = cached_of(net, pass->slots[at + t], index, k);
        attend(&cached, group, start, length, net->wide + (size_t)t * step + k * group * width, scores, room, words, mixed);
        to_words(narrow, group * width, mixed, net->act + (size_t)t * out.depth + (k * group * width >> narrow));
    }
    wait_for_all(net->team);
    adapted(net, layer, OUT, &out, num, net->act, net->added, id);
    wait_for_all(net->team);
    for (int t = id; t < num; t += threads) {
        finish(net, net->x + (size_t)t * hidden, net->added + (size_t)t * hidden, layer->mixed_norm);
        normalise_to_words(net, net->x + (size_t)t * hidden, layer->mlp_norm, net->h + (size_t)t * gate_up.depth, mixed);
    }
    wait_for_all(net->team);
    adapted(net, layer, GATE_UP, &gate_up, num, net->h, net->wide, id);
    wait_for_all(net->team);
    for (int t = id; t < num; t += threads) {
        gate(net, net->wide + (size_t)t * 2 * inter);
        to_words(narrow, inter, net->wide + (size_t)t * 2 * inter, net->act + (size_t)t * down.depth);
    }
    wait_for_all(net->team);
    adapted(net, layer, DOWN, &down, num, net->act, net->added, id);
    wait_for_all(net->team);
    for (int t = id; t < num; t += threads) finish(net, net->x + (size_t)t * hidden, net->added + (size_t)t * hidden, layer->mlp_out_norm);
}

static void embed(const Net *net, const Matrix *head, int64_t token, float *x) {
    if (!net->embedding) {
        unpack(head, (int)token, net->embedding_scale, x);
        return;
    }
    const word *row = net->embedding + token * (net->hidden >> net->is_narrow);
    for (int i = 0; i < net->hidden; i++)
        x[i] = (net->is_narrow ? widened_one(row[i / 2] >> (i % 2 * 16) & 0xffffu) : float_of(row[i])) * net->embedding_scale;
}

static void run(void *what, int id) {
    const Pass *pass = what;
    const Net *net = pass->net;
    int hidden = net->hidden, threads = net->team->size, columns = padded(net->vocab);
    Matrix head = {net->is_narrow, hidden >> net->is_narrow, net->vocab, net->head, NULL};
    float *logits = pass->logits, *room = net->mixed + (size_t)id * MAX(net->heads * net->width, hidden);
    for (int at = 0; at < pass->num; at += BLOCK) {
        int count = MIN(pass->num - at, BLOCK), wanted = 0;
        for (int t = id; t < count; t += threads) embed(net, &head, pass->ids[at + t], net->x + (size_t)t * hidden);
        for (int index = 0; index < net->layers; index++) pass_layer(pass, index, at, count, id);
        wait_for_all(net->team);
        for (int t = 0; t < count; t++)
            if (pass->wants[at + t] && wanted++ % threads == id)
                normalise_to_words(net, net->x + (size_t)t * hidden, net->norm, net->h + (size_t)(wanted - 1) * head.depth, room);
        wait_for_all(net->team);
        product(&head, wanted, net->h, logits, id, threads);
        wait_for_all(net->team);
        for (int row = id; row < wanted; row += threads)
            for (int i = net->vocab; i < columns; i++) logits[(size_t)row * columns + i] = HIDDEN;
        logits += (size_t)wanted * columns;
    }
}

/* Appends `num` tokens at (slot, position), ascending within a slot. Where `wants` is set, the logits after that token go to the next row of
   `logits`, padded(vocab) long. */
void agito_forward(const Net *net, int num, const int64_t *ids, const int32_t *slots, const int32_t *positions, const uint8_t *wants, float *logits) {
    Pass pass = {net, num, ids, slots, positions, wants, logits};
    run_team(net->team, run, &pass);
}

static void draw_rows(void *what, int id) {
    const struct {
        Draws draws;
        int threads;
    } *job = what;
    for (int row = id; row < job->draws.rows; row += job->threads) draw(&job->draws, row);
}

void agito_sample(const Net *net, int rows, const float *logits, const float *temperatures, const float *top_ps, const double *uniforms,
                  int64_t *ids, float *logprobs) {
    struct {
        Draws draws;
        int threads;
    } job = {{net->vocab, padded(net->vocab), rows, logits, temperatures, top_ps, uniforms, ids, logprobs}, net->team->size};
    run_team(net->team, draw_rows, &job);
}

typedef struct {
    int is_narrow, depth, columns, first, rows;
    const float *x;
    word *packed, *room;
    int threads;
} Packing;

static void pack_rows(void *what, int id) {
    const Packing *job = what;
    int units = (job->rows + LANES - 1) / LANES, from = units * id / job->threads * LANES;
    int to = MIN(job->rows, units * (id + 1) / job->threads * LANES), width = job->depth << job->is_narrow;
    if (from < to)
        pack(job->is_narrow, job->depth, job->columns, job->first + from, to - from, job->x + (size_t)from * width, job->packed,
             job->room + (size_t)id * LANES * job->depth);
}

/* Packs `rows` rows of `depth` words as columns of a matrix, from `first` on. `room`: LANES rows per thread. */
void agito_pack(Team *team, int is_narrow, int depth, int columns, int first, int rows, const float *x, word *packed, word *room) {
    Packing job = {is_narrow, depth, columns, first, rows, x, packed, room, team->size};
    run_team(team, pack_rows, &job);
}
