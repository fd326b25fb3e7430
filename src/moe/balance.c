/* SPDX-License-Identifier: Apache-2.0 */
#include "moe/balance.h"

double slc_load_imbalance(const int64_t *load, int64_t E)
{
    int64_t most = 0, sum = 0;

    for (int64_t e = 0; e < E; e++) {
        sum += load[e];
        most = load[e] > most ? load[e] : most;
    }
    return sum ? (double)most * (double)E / (double)sum : 0;
}

double slc_aux_micro(int64_t E, const double *count, const double *prob, double n,
                     double coef, double share, float *prob_grad)
{
    double sum = 0;

    for (int64_t e = 0; e < E; e++) {
        double slope = n > 0 ? share * coef * (double)E * (count[e] / n) / n : 0;

        prob_grad[e] = (float)slope;
        sum += slope * prob[e];
    }
    return sum;
}

double slc_aux_sequence(int64_t E, int64_t K, int64_t pools, const int32_t *count,
                        const float *prob, double coef, double sequences,
                        float *prob_grad)
{
    double sum = 0;

    for (int64_t s = 0; s < pools; s++) {
        double tokens = 0;

        for (int64_t e = 0; e < E; e++)
            tokens += count[s * E + e];
        tokens /= (double)K;
        for (int64_t e = 0; e < E; e++) {
            int64_t i = s * E + e;
            double slope = 0;

            if (tokens > 0)
                slope = coef / sequences * (double)E * count[i] /
                        ((double)K * tokens * tokens);
            prob_grad[i] = (float)slope;
            sum += slope * prob[i];
        }
    }
    return sum;
}

double slc_z_loss(double z_sum, double coef, double tokens, float *z_coef)
{
    double c = tokens > 0 ? coef / tokens : 0;

    *z_coef = (float)c;
    return c * z_sum;
}
