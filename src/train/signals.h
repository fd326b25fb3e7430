/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_TRAIN_SIGNALS_H
#define SLC_TRAIN_SIGNALS_H

#include <stdbool.h>

/*
 * SIGUSR1 and SIGTERM (and SIGINT) ask for a checkpoint and an exit at the next step
 * boundary: the handler only sets a flag, the ranks decide together. A second SIGTERM
 * or SIGINT leaves at once, without saving.
 */
void slc_signals_install(void);
bool slc_signals_stop_wanted(void);

#endif
