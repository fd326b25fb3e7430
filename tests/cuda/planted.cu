/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Errors on purpose, for tests/cuda/sanitizer.t to see that compute-sanitizer finds them:
 *   planted memcheck    a thread writes one element past the end of its array
 *   planted racecheck   threads of a block read their neighbour's shared value without a
 *                       barrier
 *   planted none        the same two kernels without the errors
 */
#include <cstdio>
#include <cstring>

__global__ void fill(float *x, int n)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;

    if (i < n)
        x[i] = (float)i;
}

__global__ void turn(float *x, bool wait)
{
    __shared__ float part[256];

    part[threadIdx.x] = x[threadIdx.x];
    if (wait)
        __syncthreads();
    x[threadIdx.x] = part[255 - threadIdx.x];
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    const int n = 256;
    float *x;

    if (strcmp(what, "memcheck") && strcmp(what, "racecheck") && strcmp(what, "none")) {
        fprintf(stderr, "planted: give memcheck, racecheck or none\n");
        return 2;
    }
    if (cudaMalloc(&x, n * sizeof(*x)) != cudaSuccess) {
        fprintf(stderr, "planted: %s\n", cudaGetErrorString(cudaGetLastError()));
        return 3;
    }
    fill<<<2, 256>>>(x, strcmp(what, "memcheck") ? n : n + 1);
    turn<<<1, n>>>(x, strcmp(what, "racecheck") != 0);
    const cudaError_t e = cudaDeviceSynchronize();
    printf("planted %s: %s\n", what, cudaGetErrorString(e));
    cudaFree(x);
    return 0;
}
