/* SPDX-License-Identifier: Apache-2.0 */
#include "train/phases.h"

const char *const slc_phase_names[SLC_PHASES] = {
    [SLC_PHASE_INPUT] = "input",
    [SLC_PHASE_FORWARD] = "forward",
    [SLC_PHASE_BACKWARD] = "backward",
    [SLC_PHASE_EXCHANGE] = "exchange",
    [SLC_PHASE_WAIT] = "exchange_wait",
    [SLC_PHASE_REDUCE] = "reduce",
    [SLC_PHASE_OPTIMIZER] = "optimizer",
    [SLC_PHASE_GATHER] = "gather",
    [SLC_PHASE_AGREE] = "agree",
    [SLC_PHASE_VALIDATE] = "validate",
    [SLC_PHASE_SAVE] = "save",
    [SLC_PHASE_METRICS] = "metrics",
};

void slc_phases_add(struct slc_phases *to, const struct slc_phases *p)
{
    for (int i = 0; i < SLC_PHASES; i++)
        to->s[i] += p->s[i];
}

void slc_phases_write(FILE *f, const struct slc_phases *p)
{
    for (int i = 0; i < SLC_PHASES_OF_STEP; i++)
        fprintf(f, "%s\"%s\": %.6f", i ? ", " : "{", slc_phase_names[i], p->s[i]);
    fputc('}', f);
}

void slc_phases_print(FILE *f, const struct slc_phases *p, double total)
{
    double left = total;

    fprintf(f, "time of rank 0            seconds   share\n");
    for (int i = 0; i < SLC_PHASES; i++) {
        left -= p->s[i];
        if (p->s[i] > 0)
            fprintf(f, "  %-20s %10.3f %6.1f %%\n", slc_phase_names[i], p->s[i],
                    100 * p->s[i] / total);
    }
    fprintf(f, "  %-20s %10.3f %6.1f %%\n", "other", left, 100 * left / total);
    fprintf(f, "  %-20s %10.3f\n", "all", total);
}
