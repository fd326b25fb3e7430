/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_MOE_BALANCE_H
#define SLC_MOE_BALANCE_H

#include <stdint.h>

#include "moe/moe.h"

/*
 * Balance of the experts: the load that metrics show, and the auxiliary losses. Pure
 * host arithmetic in double on the statistics router_forward leaves per pool
 * (pool_count, pool_prob, z_sum); the definitions are those of doc/architecture.md.
 *
 * Each value returned is this rank's share: the shares of all ranks add up to the term
 * of L, because every term is linear in the probabilities of single tokens.
 */

/* load [E] += assignments of this rank's tokens to each expert in the forward that
 * filled s. Reads counts that are there already (the host's with ep > 1, else one
 * fetch of E values). */
int slc_moe_load_add(const struct slc_moe *m, const struct slc_moe_saved *s,
                     struct slc_queue *q, int64_t *load, struct slc_err *e);

/* Largest over mean of load [E]; 1 is perfect balance, 0 means no load at all. */
double slc_load_imbalance(const int64_t *load, int64_t E);

/*
 * Scope `micro`, the formula of Transformers (load_balancing_loss_func): pooled over
 * all layers and over all ranks' tokens of one micro-batch, aux = coef * E * sum_e f_e
 * P_e,  f_e = count_e / n,  P_e = prob_e / n, n = layers * routed tokens (so sum_e f_e
 * = K). count [E]: assignments, summed over layers and ALL ranks; prob [E]:
 * probabilities summed over layers, of THIS rank. `share` weighs the micro-batch (its
 * routed tokens over the step's). prob_grad [E] gets d(aux)/d(one token's probability
 * of e), the same in every layer and for every token.
 */
double slc_aux_micro(int64_t E, const double *count, const double *prob, double n,
                     double coef, double share, float *prob_grad);

/*
 * Scope `sequence`, the formula of DeepSeek: one pool is one document; of one layer,
 *     aux = coef / sequences * sum_s sum_e f_e P_e,
 *     f_e = E / (K T_s) * count_e,  P_e = prob_e / T_s,
 * T_s = routed tokens of the document (its counts over K; a pool without any adds
 * nothing). sequences: documents in the whole step, all ranks. prob_grad [pools, E].
 */
double slc_aux_sequence(int64_t E, int64_t K, int64_t pools, const int32_t *count,
                        const float *prob, double coef, double sequences,
                        float *prob_grad);

/*
 * z-loss of one layer: coef * z_sum / tokens, z_sum = sum of lse^2 over this rank's
 * tokens, tokens = the routed tokens of the step, all ranks. *z_coef is what
 * router_backward takes.
 */
double slc_z_loss(double z_sum, double coef, double tokens, float *z_coef);

#endif
