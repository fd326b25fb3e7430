/* SPDX-License-Identifier: Apache-2.0 */
#include "train/signals.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/exit.h"

static volatile sig_atomic_t stop_wanted;
static volatile sig_atomic_t terms;

static void on_signal(int sig)
{
    static const char line[] = "sluice: second request to stop, leaving without saving\n";

    if (sig != SIGUSR1 && ++terms > 1) {
        if (write(STDERR_FILENO, line, sizeof(line) - 1) < 0)
            _exit(SLC_EXIT_HOLD);
        _exit(SLC_EXIT_HOLD);
    }
    stop_wanted = 1;
}

void slc_signals_install(void)
{
    struct sigaction sa;

    memset(&sa, 0, sizeof(sa));
    sa.sa_handler = on_signal;
    sa.sa_flags = SA_RESTART;
    sigaction(SIGUSR1, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    sigaction(SIGINT, &sa, NULL);
    signal(SIGPIPE, SIG_IGN);
}

bool slc_signals_stop_wanted(void)
{
    return stop_wanted;
}
