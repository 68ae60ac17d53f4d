/* Threads that run one function together, synchronised by barriers. A single thread skips all of it. */

#ifndef AGITO_TEAM_H
#define AGITO_TEAM_H

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#define SPINS 4000 /* spins of a waiting thread before it yields its core */

typedef struct Team Team;
typedef void (*Job)(void *what, int id);

typedef struct {
    Team *team;
    int id;
    pthread_t thread;
} Member;

struct Team {
    int size;
    atomic_int arrived, phase; /* state of the barrier */
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    long number; /* job number */
    int is_over;
    Job job;
    void *what;
    Member *members; /* all but the calling thread */
};

static inline void wait_for_all(Team *team) {
    if (team->size == 1) return;
    int phase = atomic_load(&team->phase);
    if (atomic_fetch_add(&team->arrived, 1) == team->size - 1) {
        atomic_store(&team->arrived, 0);
        atomic_store(&team->phase, phase + 1);
        return;
    }
    for (int spins = 0; atomic_load_explicit(&team->phase, memory_order_acquire) == phase; spins++) {
        if (spins > SPINS) sched_yield();
#if defined(__x86_64__)
        else __builtin_ia32_pause();
#endif
    }
}

static void *serve(void *argument) {
    Member *member = argument;
    Team *team = member->team;
    long done = 0;
    for (;;) {
        pthread_mutex_lock(&team->mutex);
        while (team->number == done && !team->is_over) pthread_cond_wait(&team->changed, &team->mutex);
        done = team->number;
        int is_over = team->is_over;
        pthread_mutex_unlock(&team->mutex);
        if (is_over) return NULL;
        team->job(team->what, member->id);
        wait_for_all(team);
    }
}

static void run_team(Team *team, Job job, void *what) {
    if (team->size > 1) {
        pthread_mutex_lock(&team->mutex);
        team->job = job, team->what = what, team->number++;
        pthread_cond_broadcast(&team->changed);
        pthread_mutex_unlock(&team->mutex);
    }
    job(what, 0);
    wait_for_all(team);
}

void agito_disband(Team *team) {
    pthread_mutex_lock(&team->mutex);
    team->is_over = 1;
    pthread_cond_broadcast(&team->changed);
    pthread_mutex_unlock(&team->mutex);
    for (int at = 0; at < team->size - 1; at++) pthread_join(team->members[at].thread, NULL);
    free(team->members);
    free(team);
}

/* At most `size` threads, as many as can be created, including the caller. */
Team *agito_team(int size) {
    Team *team = calloc(1, sizeof *team);
    team->size = 1;
    team->members = calloc(size, sizeof *team->members);
    pthread_mutex_init(&team->mutex, NULL);
    pthread_cond_init(&team->changed, NULL);
    while (team->size < size) {
        Member *member = team->members + team->size - 1;
        member->team = team, member->id = team->size;
        if (pthread_create(&member->thread, NULL, serve, member)) break;
        team->size++;
    }
    return team;
}

#endif
