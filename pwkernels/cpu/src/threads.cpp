#include "threads.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace pw {
namespace {

struct Job {
  TaskFunction task;
  void* context;
  int64_t tasks;
  std::atomic<int64_t> next{0};

  void work(int thread) {
    for (int64_t i = next.fetch_add(1); i < tasks; i = next.fetch_add(1)) task(context, i, thread);
  }
};

// Workers sleep between jobs: spinning would take the cores from torch's own threads.
class Pool {
 public:
  // False when another thread of the process is using the pool; nothing was run then.
  bool run(Job& job, int threads) {
    std::unique_lock<std::mutex> owner(owner_, std::try_to_lock);
    if (!owner) return false;
    std::unique_lock<std::mutex> lock(mutex_);
    grow(threads - 1);
    job_ = &job;
    next_slot_ = 1;
    last_slot_ = std::min(threads - 1, workers_);
    lock.unlock();
    wake_.notify_all();
    job.work(0);
    lock.lock();
    last_slot_ = 0;  // a worker that wakes up only now has nothing left to do
    done_.wait(lock, [&] { return running_ == 0; });
    return true;
  }

 private:
  void grow(int count) {
    try {
      for (; workers_ < count; ++workers_) std::thread([this] { loop(); }).detach();
    } catch (const std::system_error&) {
      // The system gives no more threads: go on with those that there are.
    }
  }

  [[noreturn]] void loop() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return next_slot_ <= last_slot_; });
      const int slot = next_slot_++;
      Job* job = job_;
      ++running_;
      lock.unlock();
      job->work(slot);
      lock.lock();
      if (--running_ == 0) done_.notify_one();
    }
  }

  std::mutex owner_, mutex_;
  std::condition_variable wake_, done_;
  Job* job_ = nullptr;
  int workers_ = 0, next_slot_ = 1, last_slot_ = 0, running_ = 0;
};

// Never destroyed: sleeping workers must not be joined while the process exits.
std::atomic<Pool*> the_pool{nullptr};

Pool& pool() {
  Pool* current = the_pool.load();
  if (current != nullptr) return *current;
#if !defined(_WIN32)
  // A forked child (a data loader's worker) has none of its parent's threads: it starts its own pool.
  static const int registered =
      pthread_atfork(nullptr, nullptr, [] { the_pool.store(nullptr); });
  (void)registered;
#endif
  Pool* fresh = new Pool;
  if (the_pool.compare_exchange_strong(current, fresh)) return *fresh;
  delete fresh;
  return *current;
}

}  // namespace

void parallel_for(int64_t tasks, int threads, TaskFunction task, void* context) {
  Job job{task, context, tasks};
  threads = static_cast<int>(std::min<int64_t>(threads, tasks));
  if (threads <= 1 || !pool().run(job, threads)) job.work(0);
}

}  // namespace pw
