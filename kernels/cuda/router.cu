/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/device.cuh"

#include <math.h>

/* One warp a token; its row lies in shared memory. Statistics come after, in an order
 * that depends on shapes only. */

#define WARPS 4
#define THREADS (WARPS * 32)

/* Larger value first, ties to the lower index; an index of -1 is nobody. */
__device__ __forceinline__ bool before(float x, int i, float y, int j)
{
    return i >= 0 && (j < 0 || x > y || (x == y && i < j));
}

/* Mark the K largest of x[0,E) in `chosen`. */
__device__ void choose(const float *x, unsigned char *chosen, int E, int K, int lane)
{
    for (int k = 0; k < K; k++) {
        float best = 0;
        int at = -1;

        for (int e = lane; e < E; e += 32)
            if (!chosen[e] && (at < 0 || x[e] > best)) {
                best = x[e];
                at = e;
            }
        for (int o = 16; o > 0; o >>= 1) {
            const float y = __shfl_down_sync(0xffffffffu, best, o);
            const int j = __shfl_down_sync(0xffffffffu, at, o);

            if (before(y, j, best, at)) {
                best = y;
                at = j;
            }
        }
        if (lane == 0)
            chosen[at] = 1;
        __syncwarp();
    }
}

/* ids of the marked experts, ascending. */
__device__ void list_chosen(int32_t *ids, const unsigned char *chosen, int E, int lane)
{
    int n = 0;

    for (int first = 0; first < E; first += 32) {
        const bool in = first + lane < E && chosen[first + lane];
        const unsigned mask = __ballot_sync(0xffffffffu, in);

        if (in)
            ids[n + __popc(mask & ((1u << lane) - 1))] = first + lane;
        n += __popc(mask);
    }
}

__global__ void forward_kernel(float *probs, float *weights, float *lse, int32_t *ids,
                               const float *logits, const int32_t *pool,
                               const int32_t *forced, int64_t T, int E, int K,
                               bool renorm)
{
    extern __shared__ float shared[];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int64_t t = (int64_t)blockIdx.x * WARPS + warp;
    float *p = shared + warp * E;
    unsigned char *chosen = (unsigned char *)(shared + WARPS * E) + warp * E;
    float max = -INFINITY, sum = 0, picked = 0;

    if (t >= T)
        return;
    for (int e = lane; e < E; e += 32) {
        p[e] = logits[t * E + e];
        chosen[e] = 0;
        max = fmaxf(max, p[e]);
    }
    max = slc_warp_max(max);
    __syncwarp();
    if (!forced)
        choose(p, chosen, E, K, lane);
    for (int e = lane; e < E; e += 32)
        sum += expf(p[e] - max);
    sum = slc_warp_sum(sum);
    if (lane == 0)
        lse[t] = max + logf(sum);
    __syncwarp();
    for (int e = lane; e < E; e += 32) {
        p[e] = expf(p[e] - max) / sum;
        probs[t * E + e] = p[e];
    }
    if (forced)
        for (int k = lane; k < K; k += 32)
            ids[t * K + k] = forced[t * K + k];
    else
        list_chosen(ids + t * K, chosen, E, lane);
    __syncwarp();
    if (pool && pool[t] < 0) {
        for (int k = lane; k < K; k += 32) {
            ids[t * K + k] = -1;
            weights[t * K + k] = 0;
        }
        return;
    }
    for (int k = 0; renorm && k < K; k++) {
        const int e = ids[t * K + k];

        picked += e < 0 ? 0.0f : p[e];
    }
    for (int k = lane; k < K; k += 32) {
        const int e = ids[t * K + k];

        weights[t * K + k] = e < 0 ? 0.0f : renorm ? p[e] / picked : p[e];
    }
}

/* Tokens of one part of the sums below. */
#define PART 1024

/*
 * part [parts][P][E]: block (x, p, c) sums the probabilities of pool p over tokens
 * [c*PART, (c+1)*PART) for 32 experts; row y of the block takes an eighth of them.
 */
__global__ void prob_kernel(float *part, const float *probs, const int32_t *pool,
                            int64_t T, int E)
{
    __shared__ float sums[8][33];
    const int e = blockIdx.x * 32 + threadIdx.x, p = blockIdx.y;
    const int64_t first = (int64_t)blockIdx.z * PART + threadIdx.y * (PART / 8);
    const int64_t last = first + PART / 8 < T ? first + PART / 8 : T;
    float sum = 0;

    for (int64_t t = first; t < last; t++)
        if (e < E && (pool ? pool[t] : 0) == p)
            sum += probs[t * E + e];
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || e >= E)
        return;
    for (int y = 1; y < 8; y++)
        sum += sums[y][threadIdx.x];
    part[((int64_t)blockIdx.z * gridDim.y + p) * E + e] = sum;
}

__global__ void prob_total_kernel(float *prob_sum, const float *part, int64_t parts,
                                  int64_t n)
{
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    float sum = 0;

    if (i >= n)
        return;
    for (int64_t c = 0; c < parts; c++)
        sum += part[c * n + i];
    prob_sum[i] = sum;
}

/* Counts are integers: the order in which they are added does not matter. */
__global__ void count_kernel(int32_t *count, const int32_t *ids, const int32_t *pool,
                             int64_t n, int E, int K)
{
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;

    if (i >= n || ids[i] < 0)
        return;
    atomicAdd(&count[(int64_t)(pool ? pool[i / K] : 0) * E + ids[i]], 1);
}

__global__ void z_kernel(float *z_sum, const float *lse, const int32_t *pool, int64_t T)
{
    double sum = 0;

    for (int64_t t = threadIdx.x; t < T; t += blockDim.x)
        if (!pool || pool[t] >= 0)
            sum += (double)lse[t] * lse[t];
    sum = slc_block_sum(sum);
    if (threadIdx.x == 0)
        *z_sum = (float)sum;
}

static void statistics(struct slc_queue *q, const struct slc_router_forward_args *a)
{
    const int64_t parts = slc_ceil_div(a->T, PART), n = a->P * a->E;
    cudaStream_t stream = SLC_STREAM(q);

    if (a->count)
        slc_cuda_fail(q, cudaMemsetAsync(a->count, 0, (size_t)n * sizeof(int32_t), stream),
                      "router_forward");
    if (a->count && a->T > 0)
        count_kernel<<<(unsigned)slc_ceil_div(a->T * a->K, 256), 256, 0, stream>>>(
            a->count, a->ids, a->pool, a->T * a->K, (int)a->E, (int)a->K);
    if (a->z_sum)
        z_kernel<<<1, 1024, 0, stream>>>(a->z_sum, a->lse, a->pool, a->T);
    if (!a->prob_sum)
        return;
    float *part = (float *)slc_cuda_scratch(q, (size_t)(parts * n + 1) * sizeof(float));
    if (!part)
        return;
    if (a->T > 0)
        prob_kernel<<<dim3((unsigned)slc_ceil_div(a->E, 32), (unsigned)a->P,
                           (unsigned)parts),
                      dim3(32, 8), 0, stream>>>(part, a->probs, a->pool, a->T,
                                                (int)a->E);
    prob_total_kernel<<<(unsigned)slc_ceil_div(n, 128), 128, 0, stream>>>(
        a->prob_sum, part, parts, n);
}

void slc_cuda_router_forward(struct slc_queue *q,
                             const struct slc_router_forward_args *a)
{
    const size_t smem = (size_t)WARPS * a->E * (sizeof(float) + 1);

    if (slc_cuda_allow_smem(q, (const void *)forward_kernel, smem, "router_forward") != 0)
        return;
    if (a->T > 0)
        forward_kernel<<<(unsigned)slc_ceil_div(a->T, WARPS), THREADS, smem,
                         SLC_STREAM(q)>>>(a->probs, a->weights, a->lse, a->ids,
                                          a->logits, a->pool, a->forced, a->T, (int)a->E,
                                          (int)a->K, a->renorm);
    statistics(q, a);
    slc_cuda_launched(q, "router_forward");
}

__global__ void backward_kernel(float *dlogits, const float *probs, const float *weights,
                                const float *lse, const float *dweights,
                                const float *prob_grad, const int32_t *ids,
                                const int32_t *pool, float z_coef, int64_t T, int E,
                                int K, bool renorm)
{
    extern __shared__ float shared[];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int64_t t = (int64_t)blockIdx.x * WARPS + warp;
    float *dp = shared + warp * E, chosen = 0, mean = 0, inner = 0;

    if (t >= T)
        return;
    const int64_t in = pool ? pool[t] : 0;
    if (in < 0) {
        for (int e = lane; e < E; e += 32)
            dlogits[t * E + e] = 0;
        return;
    }
    const float *p = probs + t * E;
    for (int e = lane; e < E; e += 32)
        dp[e] = prob_grad ? prob_grad[in * E + e] : 0.0f;
    __syncwarp();
    for (int k = 0; renorm && k < K; k++) {
        const int e = ids[t * K + k];

        if (e >= 0) {
            chosen += p[e];
            mean += dweights[t * K + k] * weights[t * K + k];
        }
    }
    for (int k = lane; k < K; k += 32) {
        const int e = ids[t * K + k];
        const float d = dweights[t * K + k];

        if (e >= 0)
            dp[e] += renorm ? (d - mean) / chosen : d;
    }
    __syncwarp();
    for (int e = lane; e < E; e += 32)
        inner += p[e] * dp[e];
    inner = slc_warp_sum(inner);
    for (int e = lane; e < E; e += 32)
        dlogits[t * E + e] = p[e] * (dp[e] - inner + 2 * z_coef * lse[t]);
}

void slc_cuda_router_backward(struct slc_queue *q,
                              const struct slc_router_backward_args *a)
{
    const size_t smem = (size_t)WARPS * a->E * sizeof(float);

    if (a->T <= 0)
        return;
    if (slc_cuda_allow_smem(q, (const void *)backward_kernel, smem, "router_backward") !=
        0)
        return;
    backward_kernel<<<(unsigned)slc_ceil_div(a->T, WARPS), THREADS, smem,
                      SLC_STREAM(q)>>>(a->dlogits, a->probs, a->weights, a->lse,
                                       a->dweights, a->prob_grad, a->ids, a->pool,
                                       a->z_coef, a->T, (int)a->E, (int)a->K, a->renorm);
    slc_cuda_launched(q, "router_backward");
}
