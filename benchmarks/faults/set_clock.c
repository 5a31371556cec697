/* Loaded before the C library: the time of day of the process is as many seconds off as the file FAULTS_CLOCK holds (eight bytes).
 * Waits until a time of day are handed to the kernel on its own clock. Otherwise each would end at once, and a process would spin. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offset;
static int (*real_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAULTS_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *found = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    offset = found == MAP_FAILED ? NULL : found;
    if (file >= 0) close(file);
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    if (!real_gettime) real_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real_gettime(clock, at);
    if (!failed && offset && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) at->tv_sec += *offset;
    return failed;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    (void)zone;
    int failed = clock_gettime(CLOCK_REALTIME, &now);
    if (!failed) *at = (struct timeval){now.tv_sec, now.tv_nsec / 1000};
    return failed;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}

/* A time since the boot is no time of day: of those the seconds are few. */
static const int64_t least_date = 1000000000;

static struct timespec on_the_kernels_clock(const struct timespec *until) {
    struct timespec real = *until;
    if (offset && real.tv_sec > least_date) real.tv_sec -= *offset;
    return real;
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex, const struct timespec *restrict until) {
    static int (*wait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    /* By its version: an old one of the same name has another layout. */
#ifdef __x86_64__
    void *found = wait ? NULL : dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
#else
    void *found = wait ? NULL : dlsym(RTLD_NEXT, "pthread_cond_timedwait");
#endif
    if (found) wait = (int (*)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *))found;
    struct timespec real = on_the_kernels_clock(until);
    return wait(condition, mutex, &real);
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until) {
    static int (*wait)(sem_t *, const struct timespec *);
    if (!wait) wait = (int (*)(sem_t *, const struct timespec *))dlsym(RTLD_NEXT, "sem_timedwait");
    struct timespec real = on_the_kernels_clock(until);
    return wait(semaphore, &real);
}

/* Mutexes of gRPC and Ray wait by the system call itself. */
long syscall(long number, ...) {
    static long (*call)(long, ...);
    if (!call) call = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    long given[6];
    va_list rest;
    va_start(rest, number);
    for (int at = 0; at < 6; at++) given[at] = va_arg(rest, long);
    va_end(rest);
    if (number == SYS_futex && given[1] & FUTEX_CLOCK_REALTIME && given[3]) {
        struct timespec real = on_the_kernels_clock((const struct timespec *)given[3]);
        return call(number, given[0], given[1], given[2], (long)&real, given[4], given[5]);
    }
    return call(number, given[0], given[1], given[2], given[3], given[4], given[5]);
}
