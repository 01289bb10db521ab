import Core
import ObjectStoreFaulty
import ObjectStoreMemory
import TestSupport
import Testing

@testable import Vault

/// Runs `body` in simulated time, every job in an order the seed decides: hours pass at once, and a busy machine changes
/// nothing.
func simulated(seed: UInt64 = 1, _ body: @escaping @Sendable (SimulatedTime) async throws -> Void) throws {
  let time = SimulatedTime()
  try SeededExecutor(seed: seed).run(on: time) { try await body(time) }
}

@Suite("Locks")
struct LockTests {
  private func repository(_ time: any Timekeeper, store: MemoryObjectStore = MemoryObjectStore()) async throws
    -> Repository
  {
    try await Repository.create(store: store, password: password, settings: .quick(time: time))
  }

  @Test func `a lock is renewed every five minutes and removed at the end`() throws {
    try simulated { time in
      let repository = try await repository(time)
      try await repository.withLock {
        var seen: Set<Digest> = []
        let end = time.now() + .seconds(720)
        while time.now() < end {
          let locks = try await repository.locks()
          #expect((1...2).contains(locks.count), "never without one")
          seen.formUnion(locks.map(\.id))
          try await time.sleep(for: .seconds(20))
        }
        #expect((2...4).contains(seen.count))
      }
      #expect(try await repository.locks().isEmpty)
    }
  }

  @Test func `a run whose lock someone removed is cancelled`() throws {
    try simulated { time in
      let repository = try await repository(time)
      let cancelled = Shared(false)
      let run: @Sendable () async throws -> Void = {
        try await repository.withLock {
          let removed = try await repository.unlock(all: true)
          #expect(removed == 1)
          do { try await time.sleep(for: .seconds(36_000)) } catch { cancelled.withLock { $0 = true } }
        }
      }
      await #expect(throws: VaultError.lockLost("someone removed it")) { try await run() }
      #expect(cancelled.value)
    }
  }

  @Test func `a run whose lock can't be renewed is cancelled before others may take it for stale`() throws {
    try simulated { time in
      let memory = MemoryObjectStore()
      _ = try await repository(time, store: memory)
      let broken = Shared(false)
      let store = FaultyObjectStore(
        memory,
        FaultPlan { operation, kind, _ in
          operation == .put && kind == .lock && broken.value ? .failure(.unavailable("gone")) : nil
        })
      let repository = try await Repository.open(store: store, password: password, settings: .quick(time: time))
      let run: @Sendable () async throws -> Timestamp = {
        try await repository.withLock {
          broken.withLock { $0 = true }
          try? await time.sleep(for: .seconds(36_000))
          return time.now()
        }
      }
      let start = time.now()
      await #expect(throws: VaultError.self) { _ = try await run() }
      #expect(time.now() - start > .seconds(1400) && time.now() - start < .seconds(1800))
    }
  }

  @Test func `shared locks go together, an exclusive one stands alone`() async throws {
    let repository = try await repository(ImpatientTime())
    try await repository.withLock {
      try await repository.withLock {}
      _ = await #expect(throws: VaultError.self) { try await repository.withLock(exclusive: true) {} }
    }
    try await repository.withLock(exclusive: true) {
      _ = await #expect(throws: VaultError.self) { try await repository.withLock {} }
    }
    #expect(try await repository.locks().isEmpty)
  }

  @Test func `waiting for a lock gets it when it is free, or says who holds it`() throws {
    try simulated { time in
      let repository = try await repository(time)
      let order = Shared<[String]>([])
      try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask {
          try await repository.withLock(exclusive: true) {
            order.withLock { $0.append("held") }
            while order.value.last != "refused" { try await time.sleep(for: .seconds(1)) }
            order.withLock { $0.append("released") }
          }
        }
        group.addTask {
          while order.value.isEmpty { try await time.sleep(for: .seconds(1)) }
          do {
            try await repository.withLock(wait: .seconds(10)) {}
            Issue.record("someone else holds it")
          } catch let error as VaultError { #expect(error.report.code == "VAULT-201") }
          order.withLock { $0.append("refused") }
          try await repository.withLock(wait: .seconds(6000)) { order.withLock { $0.append("got it") } }
        }
        try await group.waitForAll()
      }
      #expect(order.value == ["held", "refused", "released", "got it"])
    }
  }

  @Test func `who waits to have it alone lets nobody new in`() throws {
    try simulated { time in
      let repository = try await repository(time)
      let order = Shared<[String]>([])
      try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask {
          try await repository.withLock {
            order.withLock { $0.append("in") }
            try await time.sleep(for: .seconds(400))
            order.withLock { $0.append("out") }
          }
        }
        group.addTask {
          try await time.sleep(for: .seconds(10))
          try await repository.withLock(exclusive: true, wait: .seconds(3600)) {
            order.withLock { $0.append("alone") }
            try await time.sleep(for: .seconds(10))
            order.withLock { $0.append("no longer") }
          }
        }
        for second in [60, 200, 390] {
          group.addTask {
            try await time.sleep(for: .seconds(second))
            await #expect(throws: VaultError.self) { try await repository.withLock {} }
          }
        }
        group.addTask {
          try await time.sleep(for: .seconds(100))
          try await repository.withLock(wait: .seconds(3600)) { order.withLock { $0.append("next") } }
        }
        try await group.waitForAll()
      }
      #expect(order.value == ["in", "out", "alone", "no longer", "next"])
      #expect(try await repository.locks().isEmpty)
    }
  }

  @Test func `work that yields is waited for, other work is not`() throws {
    try simulated { time in
      let repository = try await repository(time)
      let rounds = Shared(0)
      let over = Shared(false)
      try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask {
          while !over.value {
            try await repository.withLock(wait: .seconds(3600), yields: true) {
              rounds.withLock { $0 += 1 }
              while !over.value, try await repository.isWanted() == nil { try await time.sleep(for: .seconds(5)) }
            }
          }
        }
        group.addTask {
          try await time.sleep(for: .seconds(700))
          for isEarly in [false, true] {
            try await repository.withLock(exclusive: true, startsEarly: isEarly) {
              #expect(try await repository.locks().count == 1)
              try await time.sleep(for: .seconds(30))
            }
            try await time.sleep(for: .seconds(60))
          }
          try await repository.withLock {
            let start = time.now()
            for isEarly in [false, true] {
              await #expect(throws: VaultError.self) {
                try await repository.withLock(exclusive: true, startsEarly: isEarly) {}
              }
            }
            #expect(time.now() - start < .seconds(1))
          }
          over.withLock { $0 = true }
        }
        try await group.waitForAll()
      }
      #expect(rounds.value == 3)
      #expect(try await repository.locks().isEmpty)
    }
  }

  @Test(arguments: 0..<40) func `all who wait have their turn, and nobody is with who is alone`(seed: Int) throws {
    try simulated(seed: UInt64(seed)) { time in
      let store = MemoryObjectStore()
      _ = try await repository(time, store: store)
      let inside = Shared((alone: 0, shared: 0))
      let done = Shared(0)
      try await withThrowingTaskGroup(of: Void.self) { group in
        for number in 0..<6 {
          group.addTask {
            let slow = FaultyObjectStore(
              store,
              FaultPlan { operation, kind, _ in
                kind == .lock && operation != .delete ? .delay(.milliseconds(seed * (number + 1) % 170)) : nil
              }, time: time)
            var settings = VaultSettings.quick(time: time)
            settings.randomness = SeededRandomness(seed: UInt64(seed * 10 + number))
            let own = try await Repository.open(store: slow, password: password, settings: settings)
            for _ in 0..<3 {
              try await own.withLock(exclusive: number < 3, wait: .seconds(36_000), yields: number == 5) {
                inside.withLock { if number < 3 { $0.alone += 1 } else { $0.shared += 1 } }
                for _ in 0..<(number == 5 ? 100 : 5) {
                  let now = inside.value
                  #expect(now.alone == 0 || now.alone == 1 && now.shared == 0, "\(now)")
                  try await time.sleep(for: .milliseconds(37 * (number + 1)))
                  if number == 5, try await own.isWanted() != nil { break }
                }
                inside.withLock { if number < 3 { $0.alone -= 1 } else { $0.shared -= 1 } }
              }
              done.withLock { $0 += 1 }
            }
          }
        }
        try await group.waitForAll()
      }
      #expect(done.value == 18)
      #expect(try await store.list(.lock).isEmpty)
    }
  }

  @Test func `of two that want it alone at the same moment, at most one gets it`() async throws {
    for _ in 0..<20 {
      let repository = try await repository(ImpatientTime())
      let inside = Shared(0)
      let most = Shared(0)
      await withTaskGroup(of: Void.self) { group in
        for _ in 0..<4 {
          group.addTask {
            try? await repository.withLock(exclusive: true) {
              let count = inside.withLock {
                $0 += 1; return $0
              }
              most.withLock { $0 = max($0, count) }
              for _ in 0..<10 { await Task.yield() }
              inside.withLock { $0 -= 1 }
            }
          }
        }
      }
      #expect(most.withLock { $0 } <= 1)
      #expect(try await repository.locks().isEmpty)
    }
  }

  @Test func `work that begins early reads at once, and writes when the lock is certain`() throws {
    try simulated { time in
      let store = MemoryObjectStore()
      let repository = try await repository(time, store: store)
      let start = time.now()
      let (began, written) = try await repository.withLock(startsEarly: true) {
        let began = time.now()
        _ = try await repository.save(.data, Array("early".utf8))
        try await repository.flush()
        return (began, time.now())
      }
      #expect(began - start < LockTiming.settle)
      #expect(written - start >= LockTiming.settle)
      #expect(try await store.list(.data).count == 1)
      #expect(try await repository.locks().isEmpty)
      // Even what only reads ends no earlier.
      let again = time.now()
      try await repository.withLock(exclusive: true, startsEarly: true) {}
      #expect(time.now() - again >= LockTiming.settle)
    }
  }

  @Test func `where a listing has everything at once nobody waits`() throws {
    try simulated { time in
      let store = MemoryObjectStore(listsAtOnce: true)
      let repository = try await repository(time, store: store)
      let start = time.now()
      try await repository.withLock(startsEarly: true) { _ = try await repository.save(.data, Array("early".utf8)) }
      try await repository.withLock { _ = try await repository.save(.data, Array("late".utf8)) }
      try await repository.withLock(exclusive: true) {}
      #expect(time.now() == start)
    }
  }

  @Test(arguments: 0..<80) func `of two that begin early, who has to go has written nothing`(seed: Int) throws {
    try simulated(seed: UInt64(seed)) { time in
      let store = MemoryObjectStore(listsAtOnce: seed % 2 == 0)
      _ = try await repository(time, store: store)
      let done = Shared(0)
      let refused = Shared<[String]>([])
      try await withThrowingTaskGroup(of: Void.self) { group in
        for number in 0..<3 {
          group.addTask {
            // Between looking and having written there is time for another to look.
            let slow = FaultyObjectStore(
              store,
              FaultPlan { operation, kind, _ in
                operation == .put && kind == .lock ? .delay(.milliseconds(30 + seed * 5)) : nil
              }, time: time)
            let own = try await Repository.open(store: slow, password: password, settings: .quick(time: time))
            try await time.sleep(for: .milliseconds(seed * number))
            do {
              try await own.withLock(exclusive: number > 0, startsEarly: true) {
                _ = try await own.save(.data, Array("\(number)".utf8))
                try await own.flush()
                done.withLock { $0 += 1 }
              }
            } catch let error as VaultError { refused.withLock { $0.append(error.report.code) } }
          }
        }
        try await group.waitForAll()
      }
      #expect(try await store.list(.data).count == done.value, "one pack for each that was let in")
      #expect(try await store.list(.index).count == done.value)
      #expect(done.value + refused.value.count == 3)
      #expect(refused.value.allSatisfy { $0 == "VAULT-201" }, "\(refused.value)")
      #expect(try await store.list(.lock).isEmpty)
    }
  }

  @Test func `who was refused can try again in the same session`() throws {
    try simulated { time in
      let store = MemoryObjectStore()
      let repository = try await repository(time, store: store)
      let other = try await Repository.open(store: store, password: password, settings: .quick(time: time))
      try await withThrowingTaskGroup(of: Void.self) { group in
        for (number, one) in [repository, other].enumerated() {
          group.addTask {
            while true {
              do {
                try await one.withLock(exclusive: true, startsEarly: true) {
                  _ = try await one.save(.data, Array("\(number)".utf8))
                  try await one.flush()
                }
                return
              } catch let error as VaultError {
                guard case .lockHeld = error else { throw error }
                try await time.sleep(for: .milliseconds(Int(one.settings.randomness.next() % 1000)))
              }
            }
          }
        }
        try await group.waitForAll()
      }
      #expect(try await store.list(.data).count == 2)
    }
  }

  @Test func `packs of an earlier failure find their index in work that begins early`() throws {
    try simulated { time in
      let memory = MemoryObjectStore()
      _ = try await repository(time, store: memory)
      let broken = Shared(true)
      let store = FaultyObjectStore(
        memory,
        FaultPlan { operation, kind, _ in
          operation == .put && kind == .index && broken.value ? .failure(.unavailable("gone")) : nil
        })
      let repository = try await Repository.open(store: store, password: password, settings: .quick(time: time))
      let run: @Sendable () async throws -> Void = {
        try await repository.withLock {
          _ = try await repository.save(.data, Array("early".utf8))
          try await repository.flush()
        }
      }
      await #expect(throws: VaultError.self) { try await run() }
      broken.withLock { $0 = false }
      // What writes the index and what makes the lock certain both need the indexes for themselves.
      try await repository.withLock(startsEarly: true) { try await repository.flush() }
      #expect(try await memory.list(.index).count == 1)
    }
  }

  @Test func `indexes that go while the lock is taken end what began early`() throws {
    try simulated { time in
      let store = MemoryObjectStore()
      let repository = try await repository(time, store: store)
      _ = try await repository.save(.data, Array("early".utf8))
      try await repository.flush()
      let index = try #require(try await store.list(.index).first?.name)
      let run: @Sendable () async throws -> Void = {
        try await repository.withLock(startsEarly: true) {
          try await store.delete(index)
          _ = try await repository.save(.data, Array("more".utf8))
          try await repository.flush()
        }
      }
      await #expect(throws: VaultError.lockLost("somebody changed the repository while the lock was taken")) {
        try await run()
      }
      #expect(try await store.list(.data).count == 1)
      #expect(try await repository.locks().isEmpty)
    }
  }

  @Test func `the lock of a dead process of this host is nobody's, any other one counts`() async throws {
    let store = MemoryObjectStore()
    func opened(_ host: String, _ process: Int) async throws -> Repository {
      var settings = VaultSettings.quick(time: ImpatientTime())
      settings.owner = Owner(hostname: host, username: "u", processID: process, isAlive: { $0 == 7 })
      return try await Repository.open(store: store, password: password, settings: settings)
    }
    _ = try await repository(ImpatientTime(), store: store)
    /// A lock as a kill leaves it.
    func leave(_ host: String, _ process: Int) async throws -> [UInt8] {
      let repository = try await opened(host, process)
      return try await repository.withLock(exclusive: true) {
        let name = try #require(try await store.list(.lock).first?.name)
        return try await store.get(name)
      }
    }
    func put(_ bytes: [UInt8]) async throws {
      try await store.put(ObjectName(.lock, bytes.withUnsafeBytes { Digest.of($0) }), bytes)
    }
    let mine = try await opened("here", 7)
    try await put(try await leave("here", 8))
    #expect(try await mine.locks().count == 1)
    let during = try await mine.withLock(exclusive: true) { try await mine.locks().count }
    #expect(during == 1)
    #expect(try await mine.locks().isEmpty)
    for (host, process) in [("here", 7), ("there", 8)] {
      try await put(try await leave(host, process))
      await #expect(throws: VaultError.self) { try await mine.withLock {} }
      #expect(try await mine.unlock(all: true) == 1)
    }
  }

  @Test func `a failure inside gives the lock back`() async throws {
    struct Odd: Error {}
    let repository = try await repository(ImpatientTime())
    await #expect(throws: Odd.self) { try await repository.withLock { throw Odd() } }
    #expect(try await repository.locks().isEmpty)
  }

  @Test func `stale is what is old, or whose process on this host is gone`() {
    let now = Timestamp(seconds: 100_000)
    let owner = Owner(hostname: "here", username: "u", processID: 1, isAlive: { $0 == 7 })
    func lock(_ host: String, _ process: Int, ageSeconds: Int64) -> LockFile {
      LockFile(
        time: Timestamp(seconds: 100_000 - ageSeconds), isExclusive: false, hostname: host, username: "u",
        processID: process, userID: 0, groupID: 0)
    }
    #expect(!lock("here", 7, ageSeconds: 60).isStale(at: now, seenBy: owner))
    #expect(lock("here", 8, ageSeconds: 60).isStale(at: now, seenBy: owner))
    #expect(!lock("there", 8, ageSeconds: 60).isStale(at: now, seenBy: owner))
    #expect(lock("there", 8, ageSeconds: 1801).isStale(at: now, seenBy: owner))
    #expect(lock("here", 7, ageSeconds: 1801).isStale(at: now, seenBy: owner))
  }
}
