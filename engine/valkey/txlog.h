/* txlog.h - what the rest of the server needs to know of txlog.c.
 * Included at the end of server.h. SPDX-License-Identifier: Apache-2.0 */
#ifndef TXLOG_H
#define TXLOG_H

/* Replies of one client that wait for their offset to commit. Made at the first held reply. */
typedef struct txlogHold {
    list *blocks;    /* Reply blocks, oldest first; their hold_off never decreases along the list. */
    listNode *mark;  /* Last block that must keep its offset when the open bracket ends. */
    long long floor; /* Offset that what comes next waits for at least. */
    uint64_t loop;   /* Event loop iteration in which the last block was begun. */
    int heap;        /* Position in the heap of waiting clients, or -1. */
    bool open;       /* Between holdBegin() and holdEnd(): nothing is released. */
    long long pushed_floor; /* floor at the first of those messages. */
    bool pushed;     /* Got a message from the running unit, whose end is not known yet. */
} txlogHold;

/* txlogState.paused: expiry and eviction would only add bytes. */
enum {
    TXLOG_BEHIND = 1, /* Above the limit: a read that meets an expired key still deletes it. */
    TXLOG_PAUSED = 2  /* No lease, or the log is full. */
};

struct txlogState {
    /* Configuration. */
    int enabled;
    int autoack; /* For tests: everything commits at once, and nobody is refused anything. */
    int autoack_delay; /* Milliseconds; for tests. */
    int allow_monitor;
    int follow_port;
    char *agent_user;
    long long uncommitted_limit;
    long long hold_timeout; /* Milliseconds. */
    /* State. */
    int logged;          /* enabled && !autoack: there is an agent, and it is the authority. */
    int promoting;       /* TXLOG PROMOTE is running: the one way to become the leader. */
    int paused;          /* TXLOG_PAUSED, TXLOG_BEHIND or 0. */
    int unit_open;       /* The running unit was propagated, or has sent messages. */
    client *checked;     /* Its last read command was let through, by a lease checked after... */
    long long checked_reads; /* ...so many reads from sockets. */
    client *late;        /* Running client that met an expired key: its reply is held from there on. */
    long long committed; /* Replication offset up to which the log is durable. */
};
extern struct txlogState txlog;

#define txlogLeads() (txlog.enabled && server.primary_host == NULL)

/* Lifecycle. */
void txlogInit(void);
void txlogBoot(void);
void txlogBeforeSleep(void);
void txlogRoleChange(int primary);
int txlogAllowSetPrimary(bool disconnect_blocked);
int txlogAllowUnsetPrimary(void);
sds txlogInfo(sds info);
void txlogCommand(client *c);

/* Around the execution of commands. */
int txlogRejectSlow(client *c, int is_write);
robj *txlogDenyWrite(void);
int txlogBeforeCallSlow(client *c);
void txlogAfterCall(client *c, long long old_off);
int txlogBeginAsync(client *c);
void txlogEndAsync(client *c);
void txlogMarkDirty(serverOpArray *oa);
void txlogUnitEndSlow(void);
void txlogLateHold(void);

/* Messages to others than the running client. */
void txlogPush(client *c, int end);
int txlogHoldPublish(robj *channel, robj *message, int sharded);

/* Connections. */
void txlogFreeClient(client *c);
int txlogKeepClosing(client *c);
int txlogIsAgent(client *c);
int txlogSparesClient(client *c, client *by);

/* Cluster view and backlog. */
int txlogKeepsSlots(void);
int txlogKeepsBacklog(long long end);

list *clientGetReplyList(client *c);

/* serverCommand.txlog_class */
enum {
    TXLOG_KNOWN = 1,
    TXLOG_READ = 2, /* Depends on its keys, or without keys on everything. */
    TXLOG_ALL = 4,  /* Depends on everything, whatever keys it names. */
    TXLOG_HOLD = 8, /* Only at its end is known what its reply depends on. */
    TXLOG_WIDE = 32, /* Runs code that a write without keys may have changed. */
    TXLOG_DATA = 16  /* Needs a lease. */
};

/* call() prologue: 1 if the replies of this command are being held. */
static inline int txlogBeforeCall(client *c) {
    if (!txlogLeads()) return 0;
    if (c->cmd->txlog_class == (TXLOG_KNOWN | TXLOG_READ | TXLOG_DATA) && !c->flag.hold_reply &&
        txlog.committed >= server.primary_repl_offset)
        return 0; /* A read, and all is committed. */
    return txlogBeforeCallSlow(c);
}

/* The outermost execution unit is over, and its bytes, if any, are in the stream. */
static inline void txlogUnitEnd(void) {
    if (txlog.unit_open) txlogUnitEndSlow();
}

/* processCommand(): refuse what may not run now. Returns 1 if it did. The lease is looked at again for whatever has
 * been read since: a command that had arrived before the last look may take effect at that moment. */
static inline int txlogReject(client *c, int is_write) {
    if (!txlog.logged) return 0;
    if (c == txlog.checked && !is_write && server.stat_total_reads_processed == txlog.checked_reads) return 0;
    return txlogRejectSlow(c, is_write);
}

#endif
