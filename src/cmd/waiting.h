/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_CMD_WAITING_H
#define SLC_CMD_WAITING_H

/*
 * OpenMP threads that spin at a barrier starve ranks they share cores with, and how they
 * wait is read from the environment before main. So where the ranks of this node want
 * more threads than it grants cores and OMP_WAIT_POLICY is unset, start this program again
 * with OMP_WAIT_POLICY=passive. Returns when nothing needs to change.
 */
void slc_wait_passively(char **argv);

#endif
