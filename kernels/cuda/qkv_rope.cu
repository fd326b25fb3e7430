/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/device.cuh"

/*
 * One block a token, one warp a head at a time; a lane holds the pairs (i, i + D/2),
 * i = lane, lane + 32, ... With the FULL norm the sums over all heads of q and of k are
 * taken first, warps in order.
 */

#define WARPS 8
#define THREADS (WARPS * 32)

/* Where head h of a row of qkv (q heads, k heads, v heads) goes. */
struct shape {
    int NQ, NK, D;
    int norm; /* enum slc_qk_norm */
    float eps, clip;
};

__device__ __forceinline__ float clamp(float x, float clip)
{
    return clip > 0 ? fminf(fmaxf(x, -clip), clip) : x;
}

/* sincosf with the full range reduction: positions are large numbers. */
__device__ __forceinline__ void rotation(float &s, float &c, float pos, float freq)
{
    sincosf(pos * freq, &s, &c);
}

/* Sums over the warps of this block of two values, in warp order. */
__device__ __forceinline__ void pair_sum(float &a, float &b)
{
    __shared__ float part[2][WARPS];
    const int warp = threadIdx.x / 32;

    a = slc_warp_sum(a);
    b = slc_warp_sum(b);
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
        part[0][warp] = a;
        part[1][warp] = b;
    }
    __syncthreads();
    a = b = 0;
    for (int i = 0; i < WARPS; i++) {
        a += part[0][i];
        b += part[1][i];
    }
}

template <class T>
__global__ void forward_kernel(T *q, T *k, T *v, float *rstd, const T *qkv, const T *qw,
                               const T *kw, const int32_t *pos, const float *inv_freq,
                               shape s)
{
    const int64_t t = blockIdx.x;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, half = s.D / 2;
    const T *row = qkv + t * (s.NQ + 2 * s.NK) * s.D;
    const float p = (float)pos[t];
    float rq = 1, rk = 1;

    if (s.norm == SLC_QK_NORM_FULL) {
        rq = rk = 0;
        for (int h = warp; h < s.NQ + s.NK; h += WARPS)
            for (int i = lane; i < s.D; i += 32) {
                const float x = slc_f(row[h * s.D + i]);

                (h < s.NQ ? rq : rk) += x * x;
            }
        pair_sum(rq, rk);
        rq = 1.0f / sqrtf(rq / (float)(s.NQ * s.D) + s.eps);
        rk = 1.0f / sqrtf(rk / (float)(s.NK * s.D) + s.eps);
        if (threadIdx.x == 0) {
            rstd[2 * t] = rq;
            rstd[2 * t + 1] = rk;
        }
    }
    for (int h = warp; h < s.NQ + 2 * s.NK; h += WARPS) {
        const T *x = row + h * s.D;
        const bool is_q = h < s.NQ, is_v = h >= s.NQ + s.NK;
        const int g = is_q ? h : is_v ? h - s.NQ - s.NK : h - s.NQ;
        T *out = is_q ? q + (t * s.NQ + g) * s.D
                      : (is_v ? v : k) + (t * s.NK + g) * s.D;

        if (is_v) {
            for (int i = lane; i < s.D; i += 32)
                out[i] = slc_t<T>(clamp(slc_f(x[i]), s.clip));
            continue;
        }
        float r = is_q ? rq : rk;
        if (s.norm == SLC_QK_NORM_HEAD) {
            float sum = 0;

            for (int i = lane; i < s.D; i += 32)
                sum += slc_f(x[i]) * slc_f(x[i]);
            r = 1.0f / sqrtf(slc_warp_sum(sum) / (float)s.D + s.eps);
            if (lane == 0)
                rstd[t * (s.NQ + s.NK) + h] = r;
        }
        const T *w = is_q ? qw : kw;
        const int w_at = s.norm == SLC_QK_NORM_FULL ? g * s.D : 0;
        for (int i = lane; i < half; i += 32) {
            float lo = slc_f(x[i]), hi = slc_f(x[i + half]), sn, cs;

            if (s.norm != SLC_QK_NORM_NONE) {
                lo *= r * slc_f(w[w_at + i]);
                hi *= r * slc_f(w[w_at + i + half]);
            }
            lo = clamp(lo, s.clip);
            hi = clamp(hi, s.clip);
            rotation(sn, cs, p, inv_freq[i]);
            out[i] = slc_t<T>(lo * cs - hi * sn);
            out[i + half] = slc_t<T>(hi * cs + lo * sn);
        }
    }
}

void slc_cuda_qkv_rope_forward(struct slc_queue *q,
                               const struct slc_qkv_rope_forward_args *a)
{
    const shape s = {(int)a->NQ, (int)a->NK, (int)a->D, (int)a->norm, a->eps, a->clip};

    if (a->T <= 0)
        return;
    SLC_BY_DTYPE(a->dtype, {
        forward_kernel<T><<<(unsigned)a->T, THREADS, 0, SLC_STREAM(q)>>>(
            (T *)a->q, (T *)a->k, (T *)a->v, a->rstd, (const T *)a->qkv,
            (const T *)a->q_weight, (const T *)a->k_weight, a->pos, a->inv_freq, s);
    });
    slc_cuda_launched(q, "qkv_rope_forward");
}

/* The gradient by the normalised values of pair i of a head, before clip and rotation,
 * zero where the clip cut; n: normalised without weight. */
struct pair {
    float d_lo, d_hi, n_lo, n_hi, w_lo, w_hi;
};

template <class T>
__device__ __forceinline__ pair pair_of(const T *d, const T *x, const T *w, float r,
                                        float p, float freq, int i, int half, float clip)
{
    const float lo = slc_f(d[i]), hi = slc_f(d[i + half]);
    float sn, cs;
    pair o;

    rotation(sn, cs, p, freq);
    o.d_lo = lo * cs + hi * sn;
    o.d_hi = hi * cs - lo * sn;
    o.n_lo = slc_f(x[i]) * r;
    o.n_hi = slc_f(x[i + half]) * r;
    o.w_lo = w ? slc_f(w[i]) : 1.0f;
    o.w_hi = w ? slc_f(w[i + half]) : 1.0f;
    if (clip > 0 && fabsf(o.n_lo * o.w_lo) > clip)
        o.d_lo = 0;
    if (clip > 0 && fabsf(o.n_hi * o.w_hi) > clip)
        o.d_hi = 0;
    return o;
}

/*
 * Block b takes tokens [b*rows, (b+1)*rows). Shared memory holds its part of the weight
 * gradients: FULL [NQ*D + NK*D], each element of one lane only; HEAD [WARPS][2*D],
 * added over warps in order at the end. part [blocks][width] gets it.
 */
template <class T>
__global__ void backward_kernel(T *dqkv, float *part, const T *dq, const T *dk,
                                const T *dv, const T *qkv, const T *qw, const T *kw,
                                const float *rstd, const int32_t *pos,
                                const float *inv_freq, int64_t rows, int64_t n, shape s)
{
    extern __shared__ float dw[];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, half = s.D / 2;
    const int heads = s.NQ + s.NK, row_len = (s.NQ + 2 * s.NK) * s.D;
    const bool full = s.norm == SLC_QK_NORM_FULL, head = s.norm == SLC_QK_NORM_HEAD;
    const int width = full ? heads * s.D : 2 * s.D, held = full ? width : WARPS * width;
    const int64_t first = (int64_t)blockIdx.x * rows;
    const int64_t last = first + rows < n ? first + rows : n;

    for (int i = threadIdx.x; (full || head) && i < held; i += THREADS)
        dw[i] = 0;
    __syncthreads();
    for (int64_t t = first; t < last; t++) {
        const T *row = qkv + t * row_len;
        T *out = dqkv + t * row_len;
        const float p = (float)pos[t];
        float mq = 0, mk = 0;

        for (int pass = full ? 0 : 1; pass < 2; pass++) {
            for (int h = warp; h < heads; h += WARPS) {
                const bool is_q = h < s.NQ;
                const int g = is_q ? h : h - s.NQ;
                const T *d = is_q ? dq + (t * s.NQ + g) * s.D : dk + (t * s.NK + g) * s.D;
                const T *x = row + h * s.D;
                const T *w = !full && !head ? (const T *)nullptr
                                            : (is_q ? qw : kw) + (full ? g * s.D : 0);
                const float r = full   ? rstd[2 * t + !is_q]
                                : head ? rstd[t * heads + h]
                                       : 1.0f;
                float mean = 0;

                if (pass == 0 || head) {
                    float *acc = full ? dw + h * s.D
                                      : dw + (warp * 2 + !is_q) * s.D;

                    for (int i = lane; i < half; i += 32) {
                        const pair o =
                            pair_of(d, x, w, r, p, inv_freq[i], i, half, s.clip);

                        mean += o.d_lo * o.w_lo * o.n_lo + o.d_hi * o.w_hi * o.n_hi;
                        acc[i] += o.d_lo * o.n_lo;
                        acc[i + half] += o.d_hi * o.n_hi;
                    }
                    if (full) {
                        (is_q ? mq : mk) += mean;
                        continue;
                    }
                    mean = slc_warp_sum(mean) / (float)s.D;
                }
                if (full)
                    mean = is_q ? mq : mk;
                for (int i = lane; i < half; i += 32) {
                    const pair o = pair_of(d, x, w, r, p, inv_freq[i], i, half, s.clip);

                    out[h * s.D + i] =
                        slc_t<T>(r * (o.d_lo * o.w_lo - o.n_lo * mean));
                    out[h * s.D + i + half] =
                        slc_t<T>(r * (o.d_hi * o.w_hi - o.n_hi * mean));
                }
            }
            if (pass == 0) {
                pair_sum(mq, mk);
                mq /= (float)(s.NQ * s.D);
                mk /= (float)(s.NK * s.D);
            }
        }
        for (int i = threadIdx.x; i < s.NK * s.D; i += THREADS) {
            const float v = slc_f(row[heads * s.D + i]);
            const bool cut = s.clip > 0 && fabsf(v) > s.clip;

            out[heads * s.D + i] = cut ? slc_t<T>(0.0f) : dv[t * s.NK * s.D + i];
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; part && i < width; i += THREADS) {
        float sum = 0;

        for (int at = i; at < held; at += width)
            sum += dw[at];
        part[(int64_t)blockIdx.x * width + i] = sum;
    }
}

/* out[i] += sum over blocks of part, for the q and the k weights lying one after the
 * other. */
__global__ void weights_kernel(float *dq, float *dk, const float *part, int64_t blocks,
                               int q_width, int width)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    float *out = i < q_width ? dq : dk, sum = 0;

    if (i >= width || !out)
        return;
#pragma unroll 8
    for (int64_t b = 0; b < blocks; b++)
        sum += part[b * width + i];
    out[i < q_width ? i : i - q_width] += sum;
}

#define BLOCKS 264

void slc_cuda_qkv_rope_backward(struct slc_queue *q,
                                const struct slc_qkv_rope_backward_args *a)
{
    const shape s = {(int)a->NQ, (int)a->NK, (int)a->D, (int)a->norm, a->eps, a->clip};
    const bool norm = s.norm != SLC_QK_NORM_NONE, full = s.norm == SLC_QK_NORM_FULL;
    const int q_width = full ? s.NQ * s.D : s.D;
    const int width = full ? (s.NQ + s.NK) * s.D : 2 * s.D;
    const size_t smem = !norm ? 0 : (size_t)(full ? width : WARPS * width) * sizeof(float);
    const int64_t rows = slc_ceil_div(a->T, BLOCKS);
    float *part = NULL;

    if (a->T <= 0)
        return;
    const int64_t blocks = slc_ceil_div(a->T, rows);
    if (norm) {
        part = (float *)slc_cuda_scratch(q, (size_t)blocks * width * sizeof(float));
        if (!part)
            return;
    }
    SLC_BY_DTYPE(a->dtype, {
        if (slc_cuda_allow_smem(q, (const void *)backward_kernel<T>, smem,
                                "qkv_rope_backward") != 0)
            return;
        backward_kernel<T><<<(unsigned)blocks, THREADS, smem, SLC_STREAM(q)>>>(
            (T *)a->dqkv, part, (const T *)a->dq, (const T *)a->dk, (const T *)a->dv,
            (const T *)a->qkv, (const T *)a->q_weight, (const T *)a->k_weight, a->rstd,
            a->pos, a->inv_freq, rows, a->T, s);
    });
    if (norm)
        weights_kernel<<<(unsigned)slc_ceil_div(width, 64), 64, 0, SLC_STREAM(q)>>>(
            a->dq_weight, a->dk_weight, part, blocks, q_width, width);
    slc_cuda_launched(q, "qkv_rope_backward");
}
