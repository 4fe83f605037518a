/* The driver's version and the clock of the multiprocessors through NVML, loaded if it is there. */
#include "bench.h"

#include <dlfcn.h>
#include <stdio.h>

enum {
    SM_CLOCK = 1 /* nvmlClockType_t NVML_CLOCK_SM */
};

static struct {
    void *library, *device;
    int (*clock)(void *device, int type, unsigned *mhz);
    int (*close)(void);
} nvml;

static void *find(const char *name) {
    return dlsym(nvml.library, name);
}

void bench_clock_open(bench_machine *machine) {
    unsigned mhz = 0;
    nvml.library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    if (!nvml.library)
        return;
    int (*const open)(void) = (int (*)(void))find("nvmlInit_v2");
    int (*const version)(char *, unsigned) =
        (int (*)(char *, unsigned))find("nvmlSystemGetDriverVersion");
    int (*const by_bus)(const char *, void **) =
        (int (*)(const char *, void **))find("nvmlDeviceGetHandleByPciBusId_v2");
    int (*const most)(void *, int, unsigned *) =
        (int (*)(void *, int, unsigned *))find("nvmlDeviceGetMaxClockInfo");
    nvml.clock = (int (*)(void *, int, unsigned *))find("nvmlDeviceGetClockInfo");
    nvml.close = (int (*)(void))find("nvmlShutdown");
    if (!open || !version || !by_bus || !most || !nvml.clock || !nvml.close || open()) {
        bench_clock_close();
        return;
    }
    if (version(machine->driver, sizeof(machine->driver)))
        machine->driver[0] = 0;
    if (by_bus(machine->bus, &nvml.device))
        nvml.device = NULL;
    if (nvml.device && !most(nvml.device, SM_CLOCK, &mhz))
        machine->most_clock = (int)mhz;
}

int bench_clock_now(void) {
    unsigned mhz;
    return nvml.device && !nvml.clock(nvml.device, SM_CLOCK, &mhz) ? (int)mhz : 0;
}

void bench_clock_close(void) {
    if (nvml.library && nvml.device)
        nvml.close();
    if (nvml.library)
        dlclose(nvml.library);
    nvml.library = nvml.device = NULL;
}
