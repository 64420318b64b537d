/* What an event loop spends per turn, seen from outside: preloaded into a process, it wraps epoll_wait and
 * epoll_pwait, and accounts what lies between the return of one and the next call.
 *
 * Only the main thread is looked at. Two clocks are read: the thread's own processor time, which is what its
 * work costs, and the monotonic clock, which also holds what it waited for: the processor, a lock, the disk.
 * The figures lie in a file that others may map meanwhile: PID.turns in the directory that TURNS_DIRECTORY
 * names. Its layout is `_Record` in turns.py. Without that directory nothing is measured.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define BUCKET_NS 10000
#define BUCKETS 2048 /* the last one holds all that is longer */
#define LONG_NS 1000000
#define LONG_TURNS 65536 /* remembered one by one; the first ones go when there are more */

struct turn {
    uint64_t ended_ns; /* monotonic */
    uint64_t cpu_ns;
    uint64_t wall_ns;
};

struct record {
    uint64_t turns;
    uint64_t long_turns; /* those of LONG_NS or more of either clock; their number modulo LONG_TURNS is their place */
    uint64_t cpu[BUCKETS];
    uint64_t wall[BUCKETS];
    struct turn longest[LONG_TURNS];
};

typedef int (*wait_function)(int, struct epoll_event *, int, int);
typedef int (*pwait_function)(int, struct epoll_event *, int, int, const sigset_t *);

static struct record *record;
static uint64_t cpu_ns, wall_ns; /* at the last return; 0: there was none */
static wait_function real_wait;
static pwait_function real_pwait;

static uint64_t read_clock(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void begin(void)
{
    char path[4096];
    int fd;
    const char *directory = getenv("TURNS_DIRECTORY");
    *(void **)&real_wait = dlsym(RTLD_NEXT, "epoll_wait");
    *(void **)&real_pwait = dlsym(RTLD_NEXT, "epoll_pwait");
    if (directory == NULL)
        return;
    snprintf(path, sizeof path, "%s/%d.turns", directory, (int)getpid());
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return;
    if (ftruncate(fd, sizeof *record) == 0) {
        record = mmap(NULL, sizeof *record, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
        if (record == MAP_FAILED)
            record = NULL;
    }
    close(fd);
}

__attribute__((constructor)) static void on_load(void)
{
    begin();
}

static int is_watched(void)
{
    return record != NULL && syscall(SYS_gettid) == getpid();
}

static void count(uint64_t *histogram, uint64_t ns)
{
    uint64_t bucket = ns / BUCKET_NS;
    histogram[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
}

static void end_turn(void)
{
    uint64_t cpu, wall, now;
    if (wall_ns == 0)
        return;
    now = read_clock(CLOCK_MONOTONIC);
    cpu = read_clock(CLOCK_THREAD_CPUTIME_ID) - cpu_ns;
    wall = now - wall_ns;
    count(record->cpu, cpu);
    count(record->wall, wall);
    if (cpu >= LONG_NS || wall >= LONG_NS) {
        struct turn *turn = &record->longest[record->long_turns % LONG_TURNS];
        turn->ended_ns = now;
        turn->cpu_ns = cpu;
        turn->wall_ns = wall;
        record->long_turns++;
    }
    record->turns++;
}

static void begin_turn(void)
{
    wall_ns = read_clock(CLOCK_MONOTONIC);
    cpu_ns = read_clock(CLOCK_THREAD_CPUTIME_ID);
}

int epoll_wait(int fd, struct epoll_event *events, int limit, int timeout)
{
    int found, watched = is_watched();
    if (watched)
        end_turn();
    found = real_wait(fd, events, limit, timeout);
    if (watched)
        begin_turn();
    return found;
}

int epoll_pwait(int fd, struct epoll_event *events, int limit, int timeout, const sigset_t *mask)
{
    int found, watched = is_watched();
    if (watched)
        end_turn();
    found = real_pwait(fd, events, limit, timeout, mask);
    if (watched)
        begin_turn();
    return found;
}
