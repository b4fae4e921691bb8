; A team of threads that share the rows of one kernel; threads.py explains how.
;
; Everything between threads goes through the gate, one word:
;   bits 0 to 15   how many workers are at the job,
;   bits 16 to 31  how many more may join it,
;   bit 32         whether workers are to end.
; No thread waits for a worker that has not joined: a worker that comes late finds the gate closed.
; Words that several threads write lie in lines of cache of their own. Mutex and condition get more
; room than any C library needs (64 and 48 bytes on macOS, 48 and 48 in glibc).

%word = type { i64, [120 x i8] }
%job = type {
  ptr,                ; 0  kernel
  i64,                ; 1  rows
  i64,                ; 2  length
  ptr,                ; 3  pointers
  ptr,                ; 4  strides
  i64,                ; 5  bytes of scratch memory that each thread needs
  i64,                ; 6  how many rows are handed out at once
  i64                 ; 7  the caller's floating-point modes
}
%settings = type {
  i64,                ; 0  the clock
  i64,                ; 1  nanoseconds that a worker spins before it sleeps
  i64,                ; 2  the same, as long as the team is at work
  i64,                ; 3  nanoseconds of work that sleepers are woken for
  i64                 ; 4  pieces of work for each thread
}
%team = type {
  %word,              ; 0  gate
  %word,              ; 1  the first row that is not handed out yet
  %word,              ; 2  1 while a caller has the team
  %word,              ; 3  how many workers sleep
  %job,               ; 4
  [16 x i64],         ; 5  mutex
  [16 x i64],         ; 6  condition
  i64,                ; 7  number of workers
  i32,                ; 8  the process that the workers belong to
  %settings,          ; 9
  i64,                ; 10 nanoseconds of work that sleepers were let sleep for, in the latest calls
  i64,                ; 11 when the last of those calls was about to end
  [1023 x ptr]        ; 12 threads
}
%time = type { i64, i64 }

declare i32 @clock_gettime(i32, ptr)
declare void @free(ptr)
declare i32 @getpid()
declare i32 @posix_memalign(ptr, i64, i64)
declare i32 @pthread_cond_broadcast(ptr)
declare i32 @pthread_cond_init(ptr, ptr)
declare i32 @pthread_cond_signal(ptr)
declare i32 @pthread_cond_wait(ptr, ptr)
declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_join(ptr, ptr)
declare i32 @pthread_mutex_init(ptr, ptr)
declare i32 @pthread_mutex_lock(ptr)
declare i32 @pthread_mutex_unlock(ptr)
declare i32 @sched_yield()
declare i32 @usleep(i32)

declare i64 @llvm.smax.i64(i64, i64)
declare i64 @llvm.smin.i64(i64, i64)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)

; -- what Python calls -----------------------------------------------------------------------------

; Return a team without workers, or null.
define ptr @opsgrad_team_new(ptr %settings) {
entry:
  %place = alloca ptr
  %size = ptrtoint ptr getelementptr (%team, ptr null, i32 1) to i64
  %failed = call i32 @posix_memalign(ptr %place, i64 128, i64 %size)
  %got = icmp eq i32 %failed, 0
  br i1 %got, label %memory, label %none

memory:
  %team = load ptr, ptr %place
  call void @llvm.memset.p0.i64(ptr %team, i8 0, i64 %size, i1 false)
  %mutex = getelementptr %team, ptr %team, i32 0, i32 5
  %condition = getelementptr %team, ptr %team, i32 0, i32 6
  %no_mutex = call i32 @pthread_mutex_init(ptr %mutex, ptr null)
  %no_condition = call i32 @pthread_cond_init(ptr %condition, ptr null)
  %errors = or i32 %no_mutex, %no_condition
  %good = icmp eq i32 %errors, 0
  br i1 %good, label %made, label %none

made:
  %settings_at = getelementptr %team, ptr %team, i32 0, i32 9
  %values = load %settings, ptr %settings
  store %settings %values, ptr %settings_at
  %process = call i32 @getpid()
  %process_at = getelementptr %team, ptr %team, i32 0, i32 8
  store i32 %process, ptr %process_at
  ret ptr %team

none:
  ret ptr null
}

; Start workers until there are as many as wanted; return how many there are, or -1 where the team
; is at work.
define i64 @opsgrad_team_grow(ptr %team, i64 %wanted) {
entry:
  %count_at = getelementptr %team, ptr %team, i32 0, i32 7
  %busy = getelementptr %team, ptr %team, i32 0, i32 2
  %try = cmpxchg ptr %busy, i64 0, i64 1 acquire monotonic
  %free = extractvalue { i64, i1 } %try, 1
  br i1 %free, label %next, label %taken

taken:
  ret i64 -1

next:
  %count = load atomic i64, ptr %count_at monotonic, align 8
  %more = icmp slt i64 %count, %wanted
  br i1 %more, label %create, label %done

create:
  %thread = getelementptr %team, ptr %team, i32 0, i32 12, i64 %count
  %failed = call i32 @pthread_create(ptr %thread, ptr null, ptr @worker, ptr %team)
  %started = icmp eq i32 %failed, 0
  br i1 %started, label %created, label %done

created:
  %one_more = add i64 %count, 1
  store atomic i64 %one_more, ptr %count_at monotonic, align 8
  br label %next

done:
  store atomic i64 0, ptr %busy release, align 8
  ret i64 %count
}

; End the workers; return 1, or 0 where the team is at work.
define i32 @opsgrad_team_stop(ptr %team) {
entry:
  %count_at = getelementptr %team, ptr %team, i32 0, i32 7
  %busy = getelementptr %team, ptr %team, i32 0, i32 2
  %ours = call i1 @ours(ptr %team)
  br i1 %ours, label %try, label %taken

try:
  %exchanged = cmpxchg ptr %busy, i64 0, i64 1 acquire monotonic
  %free = extractvalue { i64, i1 } %exchanged, 1
  br i1 %free, label %end, label %taken

taken:
  ret i32 0

end:
  store atomic i64 4294967296, ptr %team seq_cst, align 8
  %mutex = getelementptr %team, ptr %team, i32 0, i32 5
  %condition = getelementptr %team, ptr %team, i32 0, i32 6
  %locked = call i32 @pthread_mutex_lock(ptr %mutex)
  %unlocked = call i32 @pthread_mutex_unlock(ptr %mutex)
  %told = call i32 @pthread_cond_broadcast(ptr %condition)
  %workers = load atomic i64, ptr %count_at monotonic, align 8
  br label %next

next:
  %number = phi i64 [ %workers, %end ], [ %before, %join ]
  %more = icmp sgt i64 %number, 0
  br i1 %more, label %join, label %done

join:
  %before = sub i64 %number, 1
  %thread_at = getelementptr %team, ptr %team, i32 0, i32 12, i64 %before
  %thread = load ptr, ptr %thread_at
  %joined = call i32 @pthread_join(ptr %thread, ptr null)
  br label %next

done:
  store atomic i64 0, ptr %count_at monotonic, align 8
  store atomic i64 0, ptr %team seq_cst, align 8
  store atomic i64 0, ptr %busy release, align 8
  ret i32 1
}

; Run a kernel for all rows, with at most so many helpers; alone, where the team is at work.
; Pieces are multiples of the grain, which is at least 1.
define void @opsgrad_team_run(ptr %team, ptr %kernel, i64 %rows, i64 %length, ptr %pointers,
                              ptr %strides, ptr %scratch, i64 %bytes, i64 %asked, i64 %helpers) {
entry:
  %grain = call i64 @llvm.smax.i64(i64 %asked, i64 1)
  %short = icmp sle i64 %rows, %grain
  %none = icmp eq i64 %helpers, 0
  %small = or i1 %short, %none
  br i1 %small, label %alone, label %try

try:
  %busy = getelementptr %team, ptr %team, i32 0, i32 2
  %exchanged = cmpxchg ptr %busy, i64 0, i64 1 acquire monotonic
  %free = extractvalue { i64, i1 } %exchanged, 1
  br i1 %free, label %together, label %alone

alone:
  call void %kernel(i64 0, i64 %rows, i64 %length, ptr %pointers, ptr %strides, ptr %scratch)
  ret void

together:
  ; Both divisions round up.
  %each_at = getelementptr %team, ptr %team, i32 0, i32 9, i32 4
  %each = load i64, ptr %each_at
  %threads = add i64 %helpers, 1
  %pieces = mul i64 %each, %threads
  %rows_less_1 = sub i64 %rows, 1
  %grains_less_1 = sdiv i64 %rows_less_1, %grain
  %rounds_less_1 = sdiv i64 %grains_less_1, %pieces
  %rounds = add i64 %rounds_less_1, 1
  %piece = mul i64 %rounds, %grain
  %others = sdiv i64 %rows_less_1, %piece
  %seats = call i64 @llvm.smin.i64(i64 %helpers, i64 %others)
  %modes = call i64 @modes()
  %job.0 = insertvalue %job undef, ptr %kernel, 0
  %job.1 = insertvalue %job %job.0, i64 %rows, 1
  %job.2 = insertvalue %job %job.1, i64 %length, 2
  %job.3 = insertvalue %job %job.2, ptr %pointers, 3
  %job.4 = insertvalue %job %job.3, ptr %strides, 4
  %job.5 = insertvalue %job %job.4, i64 %bytes, 5
  %job.6 = insertvalue %job %job.5, i64 %piece, 6
  %job.7 = insertvalue %job %job.6, i64 %modes, 7
  %job = getelementptr %team, ptr %team, i32 0, i32 4
  store %job %job.7, ptr %job
  %first = getelementptr %team, ptr %team, i32 0, i32 1
  store atomic i64 0, ptr %first monotonic, align 8
  %open = shl i64 %seats, 16
  store atomic i64 %open, ptr %team seq_cst, align 8
  %asleep_at = getelementptr %team, ptr %team, i32 0, i32 3
  %asleep = load atomic i64, ptr %asleep_at seq_cst, align 8
  %workers_at = getelementptr %team, ptr %team, i32 0, i32 7
  %workers = load atomic i64, ptr %workers_at monotonic, align 8
  %awake = sub i64 %workers, %asleep
  %enough = icmp sge i64 %awake, %seats
  br i1 %enough, label %share, label %try_grain

try_grain:
  ; To wake a sleeper can cost the caller more than the whole job: see first how long a grain takes.
  ; Jobs that follow each other closely count as one.
  %start = call i64 @now(ptr %team)
  %computed = call i1 @take(ptr %team, ptr %scratch, i64 %grain)
  %end = call i64 @now(ptr %team)
  %time = sub i64 %end, %start
  %reached = load atomic i64, ptr %first monotonic, align 8
  %left = sub i64 %rows, %reached
  %total = mul i64 %left, %time
  %expected = sdiv i64 %total, %grain
  %missed_at = getelementptr %team, ptr %team, i32 0, i32 10
  %missed = load i64, ptr %missed_at
  %last_at = getelementptr %team, ptr %team, i32 0, i32 11
  %last = load i64, ptr %last_at
  %spin_at = getelementptr %team, ptr %team, i32 0, i32 9, i32 1
  %spin = load i64, ptr %spin_at
  %gap = sub i64 %start, %last
  %near = icmp slt i64 %gap, %spin
  %before = select i1 %near, i64 %missed, i64 0
  %sum = add i64 %before, %expected
  %worth_at = getelementptr %team, ptr %team, i32 0, i32 9, i32 3
  %worth = load i64, ptr %worth_at
  %long = icmp sgt i64 %sum, %worth
  %rest = select i1 %long, i64 0, i64 %sum
  store i64 %rest, ptr %missed_at
  %done = add i64 %end, %expected
  store i64 %done, ptr %last_at
  br i1 %long, label %call, label %share

call:
  call void @wake(ptr %team)
  br label %share

share:
  call void @work(ptr %team, ptr %scratch)
  %closed = atomicrmw and ptr %team, i64 65535 acq_rel
  call void @wait(ptr %team)
  store atomic i64 0, ptr %busy release, align 8
  ret void
}

; -- what callers and workers do -------------------------------------------------------------------

; Take rows and compute them until none are left.
define internal void @work(ptr %team, ptr %scratch) {
entry:
  %piece_at = getelementptr %team, ptr %team, i32 0, i32 4, i32 6
  %piece = load i64, ptr %piece_at
  br label %next

next:
  %more = call i1 @take(ptr %team, ptr %scratch, i64 %piece)
  br i1 %more, label %next, label %done

done:
  ret void
}

; Take so many rows and compute them; return whether there were any.
define internal i1 @take(ptr %team, ptr %scratch, i64 %count) {
entry:
  %at = getelementptr %team, ptr %team, i32 0, i32 4
  %job = load %job, ptr %at
  %kernel = extractvalue %job %job, 0
  %rows = extractvalue %job %job, 1
  %length = extractvalue %job %job, 2
  %pointers = extractvalue %job %job, 3
  %strides = extractvalue %job %job, 4
  %first = getelementptr %team, ptr %team, i32 0, i32 1
  %begin = atomicrmw add ptr %first, i64 %count monotonic
  %more = icmp slt i64 %begin, %rows
  br i1 %more, label %compute, label %done

compute:
  %whole = add i64 %begin, %count
  %end = call i64 @llvm.smin.i64(i64 %whole, i64 %rows)
  call void %kernel(i64 %begin, i64 %end, i64 %length, ptr %pointers, ptr %strides, ptr %scratch)
  br label %done

done:
  ret i1 %more
}

; Wait until the workers that have joined are done: they may have lost their CPU in the middle.
define internal void @wait(ptr %team) {
entry:
  br label %look

look:
  %count = phi i32 [ 0, %entry ], [ %one_more, %spin ], [ %one_more, %yield ], [ %one_more, %nap ]
  %gate = load atomic i64, ptr %team acquire, align 8
  %one_more = add i32 %count, 1
  %done = icmp eq i64 %gate, 0
  br i1 %done, label %end, label %choose

choose:
  %short = icmp ult i32 %count, 2000
  br i1 %short, label %spin, label %longer

longer:
  %medium = icmp ult i32 %count, 4000
  br i1 %medium, label %yield, label %nap

spin:
  call void @relax()
  br label %look

yield:
  %yielded = call i32 @sched_yield()
  br label %look

nap:
  %napped = call i32 @usleep(i32 50)
  br label %look

end:
  ret void
}

; Wake one or two sleepers where workers may join: each that joins wakes two more.
define internal void @wake(ptr %team) {
entry:
  %asleep_at = getelementptr %team, ptr %team, i32 0, i32 3
  %asleep = load atomic i64, ptr %asleep_at seq_cst, align 8
  %gate = load atomic i64, ptr %team seq_cst, align 8
  %places = lshr i64 %gate, 16
  %useful = call i64 @llvm.smin.i64(i64 %asleep, i64 %places)
  %any = icmp sgt i64 %useful, 0
  br i1 %any, label %check, label %done

check:
  %ours = call i1 @ours(ptr %team)
  br i1 %ours, label %one, label %done

one:
  %mutex = getelementptr %team, ptr %team, i32 0, i32 5
  %condition = getelementptr %team, ptr %team, i32 0, i32 6
  ; A sleeper that has looked at the gate before it opened waits by now.
  %locked = call i32 @pthread_mutex_lock(ptr %mutex)
  %unlocked = call i32 @pthread_mutex_unlock(ptr %mutex)
  %first = call i32 @pthread_cond_signal(ptr %condition)
  %more = icmp sgt i64 %useful, 1
  br i1 %more, label %two, label %done

two:
  %second = call i32 @pthread_cond_signal(ptr %condition)
  br label %done

done:
  ret void
}

; Return whether the workers belong to this process: those of a parent must not be waited for.
define internal i1 @ours(ptr %team) {
entry:
  %process_at = getelementptr %team, ptr %team, i32 0, i32 8
  %process = load i32, ptr %process_at
  %this = call i32 @getpid()
  %ours = icmp eq i32 %process, %this
  ret i1 %ours
}

; -- workers ---------------------------------------------------------------------------------------

define internal ptr @worker(ptr %team) {
entry:
  %scratch_at = alloca ptr
  %bytes_at = alloca i64
  store ptr null, ptr %scratch_at
  store i64 0, ptr %bytes_at
  br label %idle

idle:
  %gate = call i64 @called(ptr %team)
  %stop = icmp uge i64 %gate, 4294967296
  br i1 %stop, label %end, label %join

join:
  ; One place fewer, one worker more.
  %with_us = sub i64 %gate, 65535
  %exchanged = cmpxchg ptr %team, i64 %gate, i64 %with_us acquire monotonic
  %joined = extractvalue { i64, i1 } %exchanged, 1
  br i1 %joined, label %help, label %idle

help:
  call void @wake(ptr %team)
  %ready = call i1 @room(ptr %team, ptr %scratch_at, ptr %bytes_at)
  br i1 %ready, label %compute, label %leave

compute:
  %modes_at = getelementptr %team, ptr %team, i32 0, i32 4, i32 7
  %modes = load i64, ptr %modes_at
  call void @adopt(i64 %modes)
  %scratch = load ptr, ptr %scratch_at
  call void @work(ptr %team, ptr %scratch)
  br label %leave

leave:
  %before = atomicrmw sub ptr %team, i64 1 release
  br label %idle

end:
  %last = load ptr, ptr %scratch_at
  call void @free(ptr %last)
  ret ptr null
}

; Return the gate once workers may join or are to end: spin for a while, then sleep.
define internal i64 @called(ptr %team) {
entry:
  %busy = getelementptr %team, ptr %team, i32 0, i32 2
  %spin_at = getelementptr %team, ptr %team, i32 0, i32 9, i32 1
  %spin = load i64, ptr %spin_at
  %patience_at = getelementptr %team, ptr %team, i32 0, i32 9, i32 2
  %patience = load i64, ptr %patience_at
  %start = call i64 @now(ptr %team)
  br label %look

look:
  %count = phi i32 [ 0, %entry ], [ %one_more, %relax ], [ 0, %check ]
  %since = phi i64 [ %start, %entry ], [ %since, %relax ], [ %later_since, %check ]
  %gate = load atomic i64, ptr %team monotonic, align 8
  %called = icmp ugt i64 %gate, 65535
  br i1 %called, label %ready, label %idle

idle:
  %one_more = add i32 %count, 1
  %often = icmp ult i32 %one_more, 32
  br i1 %often, label %relax, label %check

relax:
  call void @relax()
  br label %look

check:
  ; While the others finish their pieces, the time does not count, or a worker that is early would
  ; have to be woken for the next job.
  %now = call i64 @now(ptr %team)
  %others = load atomic i64, ptr %busy monotonic, align 8
  %at_work = icmp ne i64 %others, 0
  %whole = sub i64 %now, %start
  %patient = icmp slt i64 %whole, %patience
  %waits = and i1 %at_work, %patient
  %later_since = select i1 %waits, i64 %now, i64 %since
  %spent = sub i64 %now, %later_since
  %early = icmp slt i64 %spent, %spin
  br i1 %early, label %look, label %sleep

sleep:
  %asleep = getelementptr %team, ptr %team, i32 0, i32 3
  %mutex = getelementptr %team, ptr %team, i32 0, i32 5
  %condition = getelementptr %team, ptr %team, i32 0, i32 6
  %locked = call i32 @pthread_mutex_lock(ptr %mutex)
  %sleepers = atomicrmw add ptr %asleep, i64 1 seq_cst
  br label %look_again

look_again:
  %later = load atomic i64, ptr %team seq_cst, align 8
  %woken = icmp ugt i64 %later, 65535
  br i1 %woken, label %awake, label %wait

wait:
  %signalled = call i32 @pthread_cond_wait(ptr %condition, ptr %mutex)
  br label %look_again

awake:
  %with_us = atomicrmw sub ptr %asleep, i64 1 seq_cst
  %unlocked = call i32 @pthread_mutex_unlock(ptr %mutex)
  br label %ready

ready:
  %out = phi i64 [ %gate, %look ], [ %later, %awake ]
  ret i64 %out
}

; Have a worker's scratch memory grow to what the job needs; return whether there is enough.
define internal i1 @room(ptr %team, ptr %scratch_at, ptr %bytes_at) {
entry:
  %needed_at = getelementptr %team, ptr %team, i32 0, i32 4, i32 5
  %needed = load i64, ptr %needed_at
  %bytes = load i64, ptr %bytes_at
  %enough = icmp sge i64 %bytes, %needed
  br i1 %enough, label %good, label %grow

grow:
  %old = load ptr, ptr %scratch_at
  call void @free(ptr %old)
  store ptr null, ptr %scratch_at
  store i64 0, ptr %bytes_at
  %failed = call i32 @posix_memalign(ptr %scratch_at, i64 128, i64 %needed)
  %got = icmp eq i32 %failed, 0
  br i1 %got, label %grown, label %bad

grown:
  store i64 %needed, ptr %bytes_at
  br label %good

bad:
  store ptr null, ptr %scratch_at
  ret i1 false

good:
  ret i1 true
}

; Return the time in nanoseconds.
define internal i64 @now(ptr %team) {
entry:
  %time = alloca %time
  %clock_at = getelementptr %team, ptr %team, i32 0, i32 9, i32 0
  %long = load i64, ptr %clock_at
  %clock = trunc i64 %long to i32
  %failed = call i32 @clock_gettime(i32 %clock, ptr %time)
  %seconds = load i64, ptr %time
  %rest_at = getelementptr %time, ptr %time, i32 0, i32 1
  %rest = load i64, ptr %rest_at
  %whole = mul i64 %seconds, 1000000000
  %out = add i64 %whole, %rest
  ret i64 %out
}
