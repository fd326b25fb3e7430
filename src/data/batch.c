/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "data/sampler.h"
#include "data/sampler_private.h"

int slc_batch_init(struct slc_batch *b, int64_t rows, int64_t S, struct slc_err *e)
{
    memset(b, 0, sizeof(*b));
    if (rows < 1 || S < 1 || rows > (INT32_MAX - 1) / S)
        return slc_errf(e, SLC_EXIT_CONFIG,
                        "not supported: a micro-batch of %lld rows of %lld tokens; use fewer "
                        "than 2^31 tokens",
                        (long long)rows, (long long)S);
    b->rows = rows;
    b->S = S;
    b->T = b->max_seg = rows * S;
    size_t bytes = (size_t)b->T * sizeof(int32_t);
    b->ids = calloc(1, bytes);
    b->targets = calloc(1, bytes);
    b->pos = calloc(1, bytes);
    b->doc = calloc(1, bytes);
    b->seg = calloc(1, bytes + sizeof(int32_t));
    if (!b->ids || !b->targets || !b->pos || !b->doc || !b->seg) {
        slc_batch_release(b);
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for a batch of %lld x %lld tokens",
                        (long long)rows, (long long)S);
    }
    return 0;
}

void slc_batch_release(struct slc_batch *b)
{
    free(b->ids);
    free(b->targets);
    free(b->pos);
    free(b->doc);
    free(b->seg);
    memset(b, 0, sizeof(*b));
}

void slc_batch_clear(struct slc_batch *b)
{
    b->n_seg = b->n_docs = b->n_tokens = b->n_targets = 0;
}

void slc_batch_add_document(struct slc_batch *b, int64_t at, int64_t n, const uint8_t *mask)
{
    b->seg[b->n_seg++] = (int32_t)at;
    for (int64_t i = 0; i < n; i++) {
        bool target = i + 1 < n && (!mask || mask[i + 1]);
        b->targets[at + i] = target ? b->ids[at + i + 1] : -1;
        b->pos[at + i] = (int32_t)i;
        b->doc[at + i] = (int32_t)b->n_docs;
        b->n_targets += target;
    }
    b->n_docs++;
    b->n_tokens += n;
}

void slc_batch_add_padding(struct slc_batch *b, int64_t at, int64_t n)
{
    if (n == 0)
        return;
    b->seg[b->n_seg++] = (int32_t)at;
    for (int64_t i = 0; i < n; i++) {
        b->ids[at + i] = 0;
        b->targets[at + i] = -1;
        b->pos[at + i] = (int32_t)i;
        b->doc[at + i] = -1;
    }
}

void slc_batch_finish(struct slc_batch *b)
{
    for (int64_t i = b->n_seg; i <= b->max_seg; i++)
        b->seg[i] = (int32_t)b->T;
}

int slc_batch_pack(struct slc_batch *b, const int32_t *ids, const int64_t *lengths,
                   int64_t n, struct slc_err *e)
{
    int64_t row = 0, used = 0;

    slc_batch_clear(b);
    b->sample = 0;
    for (int64_t d = 0; d < n; d++) {
        if (lengths[d] < 1 || lengths[d] > b->S)
            return slc_errf(e, SLC_EXIT_INPUT,
                            "document %lld has %lld tokens; a row takes 1 to %lld",
                            (long long)d, (long long)lengths[d], (long long)b->S);
        if (used + lengths[d] > b->S) {
            slc_batch_add_padding(b, row * b->S + used, b->S - used);
            row++;
            used = 0;
        }
        if (row == b->rows)
            return slc_errf(e, SLC_EXIT_INPUT,
                            "%lld documents do not fit into %lld rows of %lld tokens",
                            (long long)n, (long long)b->rows, (long long)b->S);
        int64_t at = row * b->S + used;
        memcpy(b->ids + at, ids, (size_t)lengths[d] * sizeof(*ids));
        slc_batch_add_document(b, at, lengths[d], NULL);
        ids += lengths[d];
        used += lengths[d];
    }
    for (; row < b->rows; row++, used = 0)
        slc_batch_add_padding(b, row * b->S + used, b->S - used);
    slc_batch_finish(b);
    return 0;
}
