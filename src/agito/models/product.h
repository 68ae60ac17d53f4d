/* Products of a few rows and a large matrix.

   A packed matrix is stored in panels of PANEL x LANES columns, the last one narrower: for each word of the depth, all columns of the
   panel are adjacent. Every sum runs along the depth in order, so its bits depend neither on the other rows nor on how the work is split. */

#ifndef AGITO_PRODUCT_H
#define AGITO_PRODUCT_H

#include "vectors.h"

#if W == 16
#define PANEL 4
#else
#define PANEL 1 /* only 16 registers */
#endif
#define TILE 6          /* rows per pass over a panel */
#define DEPTH_BLOCK 128 /* words of depth that stay in L1 cache while many rows use them */

static int padded(int columns) { return (columns + LANES - 1) / LANES * LANES; }

/* Address of the columns from `unit` (in LANES) on, and the distance between successive words of their depth. */
ALWAYS const word *columns_at(const word *packed, int depth, int units, int unit, int *step) {
    int panel = unit / PANEL;
    *step = MIN(PANEL, units - panel * PANEL) * LANES;
    return packed + (size_t)panel * PANEL * LANES * depth + unit % PANEL * LANES;
}

ALWAYS void tile(const int is_narrow, const int m, const int n, int depth, const word *x, int x_step, const word *matrix, int step,
                 float *y, int y_step, const float *bias, int is_first) {
    vec sums[TILE][PANEL * V];
#pragma GCC unroll 8
    for (int r = 0; r < m; r++)
#pragma GCC unroll 8
        for (int v = 0; v < n * V; v++)
            sums[r][v] = !is_first ? load(y + (size_t)r * y_step + v * W) : bias ? load(bias + v * W) : splat(0.0f);
    for (int k = 0; k < depth; k++, matrix += step) {
        uvec weights[PANEL * V];
#pragma GCC unroll 8
        for (int v = 0; v < n * V; v++) weights[v] = load_words(matrix + v * W);
#pragma GCC unroll 8
        for (int r = 0; r < m; r++) {
            word each = x[(size_t)r * x_step + k];
#pragma GCC unroll 8
            for (int v = 0; v < n * V; v++) sums[r][v] = multiply_add(is_narrow, sums[r][v], each, weights[v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < m; r++)
#pragma GCC unroll 8
        for (int v = 0; v < n * V; v++) store(y + (size_t)r * y_step + v * W, sums[r][v]);
}

typedef void (*Tile)(int depth, const word *x, int x_step, const word *matrix, int step, float *y, int y_step, const float *bias, int is_first);

#define MAKE(narrow, m, n)                                                                                                          \
    static void tile_##narrow##_##m##_##n(int depth, const word *x, int x_step, const word *matrix, int step, float *y, int y_step, \
                                          const float *bias, int is_first) {                                                        \
        tile(narrow, m, n, depth, x, x_step, matrix, step, y, y_step, bias, is_first);                                              \
    }
#define MAKE_ROWS(narrow, n) MAKE(narrow, 1, n) MAKE(narrow, 2, n) MAKE(narrow, 3, n) MAKE(narrow, 4, n) MAKE(narrow, 5, n) MAKE(narrow, 6, n)
#define NAMES(narrow, n) {tile_##narrow##_1_##n, tile_##narrow##_2_##n, tile_##narrow##_3_##n, tile_##narrow##_4_##n, tile_##narrow##_5_##n, tile_##narrow##_6_##n}
MAKE_ROWS(0, 1) MAKE_ROWS(1, 1)
#if PANEL == 4
MAKE_ROWS(0, 2) MAKE_ROWS(0, 3) MAKE_ROWS(0, 4) MAKE_ROWS(1, 2) MAKE_ROWS(1, 3) MAKE_ROWS(1, 4)
static const Tile tiles[2][PANEL][TILE] = {{NAMES(0, 1), NAMES(0, 2), NAMES(0, 3), NAMES(0, 4)}, {NAMES(1, 1), NAMES(1, 2), NAMES(1, 3), NAMES(1, 4)}};
#else
static const Tile tiles[2][PANEL][TILE] = {{NAMES(0, 1)}, {NAMES(1, 1)}};
#endif

typedef struct {
    int is_narrow, depth, columns; /* depth in words */
    const word *packed;
    const float *bias; /* padded, or NULL */
} Matrix;

/* y (+)= x times matrix, over the columns from `unit` to `end` (in LANES) and `depth` words of the depth from `from` on. */
static void product_part(const Matrix *matrix, int rows, const word *x, int x_step, int unit, int end, int from, int depth, float *y, int y_step, int is_first) {
    int units = padded(matrix->columns) / LANES, block = rows > 2 * TILE ? DEPTH_BLOCK : depth, parts = (rows + TILE - 1) / TILE, step;
    for (int n; unit < end; unit += n, y += n * LANES) {
        const word *at = columns_at(matrix->packed, matrix->depth, units, unit, &step) + (size_t)from * step;
        n = MIN(step / LANES - unit % PANEL, end - unit);
        for (int k = 0; k < depth; k += block)
            for (int part = 0; part < parts; part++) {
                int r = rows * part / parts, count = rows * (part + 1) / parts - r;
                tiles[matrix->is_narrow][n - 1][count - 1](MIN(block, depth - k), x + (size_t)r * x_step + k, x_step, at + (size_t)k * step, step,
                                                         y + (size_t)r * y_step, y_step, matrix->bias ? matrix->bias + unit * LANES : NULL,
                                                         is_first && k == 0);
            }
    }
}

static void part_of_product(const Matrix *matrix, int rows, const word *x, float *y, int id, int num, int is_first) {
    int units = padded(matrix->columns) / LANES, first = (int)((int64_t)units * id / num), end = (int)((int64_t)units * (id + 1) / num);
    product_part(matrix, rows, x, matrix->depth, first, end, 0, matrix->depth, y + first * LANES, units * LANES, is_first);
}

/* Part `id` of `num` of y = x times matrix plus bias; rows of y are padded(columns) long. */
static void product(const Matrix *matrix, int rows, const word *x, float *y, int id, int num) { part_of_product(matrix, rows, x, y, id, num, 1); }

/* The same part of y += x times matrix. */
static void add_product(const Matrix *matrix, int rows, const word *x, float *y, int id, int num) { part_of_product(matrix, rows, x, y, id, num, 0); }

/* Packs rows of floats, each a column of the matrix, from column `first` on, which starts a panel or continues the previous packing.
   Threads may pack different parts concurrently. `room`: LANES rows of words. */
static void pack(int is_narrow, int depth, int columns, int first, int rows, const float *x, word *packed, word *room) {
    int units = padded(columns) / LANES, width = is_narrow ? 2 * depth : depth, step;
    for (int from = first; from < first + rows;) {
        int lane = from % LANES, count = MIN(LANES - lane, first + rows - from);
        word *target = (word *)columns_at(packed, depth, units, from / LANES, &step) + lane;
        for (int r = 0; r < count; r++) to_words(is_narrow, width, x + (size_t)(from - first + r) * width, room + (size_t)r * depth);
        if (count == LANES)
            for (int k = 0; k < depth; k++)
#pragma GCC unroll 16
                for (int r = 0; r < LANES; r++) target[(size_t)k * step + r] = room[(size_t)r * depth + k];
        else
            for (int k = 0; k < depth; k++)
                for (int r = 0; r < count; r++) target[(size_t)k * step + r] = room[(size_t)r * depth + k];
        from += count;
    }
}

/* Unpacks one column of the matrix into a row of floats, times `factor`. */
static void unpack(const Matrix *matrix, int column, float factor, float *y) {
    int step;
    const word *at = columns_at(matrix->packed, matrix->depth, padded(matrix->columns) / LANES, column / LANES, &step) + column % LANES;
    for (int k = 0; k < matrix->depth; k++) {
        word each = at[(size_t)k * step];
        if (matrix->is_narrow) {
            y[2 * k] = widened_one(each & 0xffffu) * factor;
            y[2 * k + 1] = widened_one(each >> 16) * factor;
        } else
            y[k] = float_of(each) * factor;
    }
}

#endif
