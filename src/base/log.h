/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_BASE_LOG_H
#define SLC_BASE_LOG_H

/*
 * One line per event on stderr: `sluice[rank]: component: lower case, key value`.
 * Levels: error (the job ends), warn (a person should know), info (start, end,
 * checkpoints), debug (proportional to the number of objects), trace (per call).
 * By default rank 0 prints up to info and other ranks up to warn;
 * SLUICE_LOG=error|warn|info|debug|trace overrides both.
 */
enum slc_log_level { SLC_LOG_ERROR, SLC_LOG_WARN, SLC_LOG_INFO, SLC_LOG_DEBUG, SLC_LOG_TRACE };

extern enum slc_log_level slc_log_max;

/* Arguments are not evaluated when the level is off. */
#define slc_log(level, component, ...)                                                 \
    do {                                                                               \
        if ((level) <= slc_log_max)                                                    \
            slc_log_write((level), (component), __VA_ARGS__);                          \
    } while (0)

#define slc_error(component, ...) slc_log(SLC_LOG_ERROR, component, __VA_ARGS__)
#define slc_warn(component, ...) slc_log(SLC_LOG_WARN, component, __VA_ARGS__)
#define slc_info(component, ...) slc_log(SLC_LOG_INFO, component, __VA_ARGS__)
#define slc_debug(component, ...) slc_log(SLC_LOG_DEBUG, component, __VA_ARGS__)

/* Set rank (prefix, default level) and read SLUICE_LOG. Before it: rank 0, info. */
void slc_log_init(int rank, int size);

/* How many error lines were written so far (tests fail on an unexpected one). */
int slc_log_errors(void);

void slc_log_write(enum slc_log_level level, const char *component, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
