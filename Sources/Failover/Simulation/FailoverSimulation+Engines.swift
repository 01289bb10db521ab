import Catalog
import Core
import DriverKit
import StateKit

/// Writes, and how they reach standbys.
extension FailoverSimulation {
  func canWork(_ engine: Int) -> Bool {
    engines[engine].isRunning && engines[engine].stalledUntil <= now
  }

  mutating func write(_ engine: Int) {
    schedule(now + dice.between(20_000, 100_000), .write(engine))
    guard canWork(engine), engines[engine].role == .primary else { return }
    if engines[engine].diskFull {
      trace("engine \(engine) ends: disk full")
      crash(engine)
      return
    }
    let waiting = engines[engine].pending.count - engines[engine].pendingHead
    guard waiting < 40 else { return }
    engines[engine].written += 1
    engines[engine].pending.append(Pending(offset: engines[engine].written, startedAt: now))
    let delay = engines[engine].slowDisk ? dice.between(50_000, 400_000) : dice.between(200, 2000)
    schedule(now + delay, .flushed(engine, offset: engines[engine].written, generation: engines[engine].generation))
  }

  mutating func flushed(_ engine: Int, _ offset: Int64, _ generation: Int) {
    guard engines[engine].generation == generation, engines[engine].isRunning else { return }
    if engines[engine].stalledUntil > now {
      schedule(engines[engine].stalledUntil, .flushed(engine, offset: offset, generation: generation))
      return
    }
    engines[engine].offset = max(engines[engine].offset, offset)
    send(engine)
    acknowledge(engine)
  }

  mutating func send(_ primary: Int) {
    for standby in 0..<members where engines[standby].isReceiving && engines[standby].following == primary {
      send(primary, to: standby)
    }
  }

  mutating func send(_ primary: Int, to standby: Int) {
    guard let time = travel(primary, standby) else { return }
    schedule(
      time + engines[standby].streamDelay,
      .arrive(
        standby: standby, primary: primary, branch: engines[primary].branch, offset: engines[primary].offset,
        generation: engines[standby].generation))
  }

  mutating func heartbeat(_ engine: Int) {
    schedule(now + 100_000, .heartbeat(engine))
    guard canWork(engine), engines[engine].role == .primary else { return }
    send(engine)
  }

  mutating func arrive(_ standby: Int, _ primary: Int, _ branch: Int, _ offset: Int64, _ generation: Int) {
    guard engines[standby].generation == generation, engines[standby].isRunning, engines[standby].isReceiving else {
      return
    }
    if engines[standby].stalledUntil > now {
      schedule(
        engines[standby].stalledUntil,
        .arrive(standby: standby, primary: primary, branch: branch, offset: offset, generation: generation))
      return
    }
    engines[standby].lastHeard = now
    if engines[standby].diskFull { return }
    var delay = engines[standby].slowDisk ? dice.between(50_000, 400_000) : dice.between(200, 2000)
    if engines[standby].isLaggard {
      delay = dice.between(9_000_000, 12_000_000)
      // It says that it is there, and how little it has.
      if let time = travel(standby, primary) {
        schedule(
          time, .confirmed(primary: primary, standby: standby, branch: branch, offset: engines[standby].offset))
      }
    }
    if engines[standby].branch != branch {
      // What it has of a common past, and then on along the primary's own history.
      engines[standby].branch = branch
    }
    schedule(now + delay, .standbyFlushed(standby: standby, primary: primary, offset: offset, generation: generation))
  }

  mutating func standbyFlushed(_ standby: Int, _ primary: Int, _ offset: Int64, _ generation: Int) {
    guard engines[standby].generation == generation, engines[standby].isRunning else { return }
    engines[standby].offset = max(engines[standby].offset, offset)
    engines[standby].written = engines[standby].offset
    guard let time = travel(standby, primary) else { return }
    schedule(
      time,
      .confirmed(
        primary: primary, standby: standby, branch: engines[standby].branch, offset: engines[standby].offset))
  }

  mutating func confirmed(_ primary: Int, _ standby: Int, _ branch: Int, _ offset: Int64) {
    guard engines[primary].isRunning, engines[primary].role == .primary, engines[primary].branch == branch else {
      return
    }
    if engines[primary].stalledUntil > now {
      schedule(
        engines[primary].stalledUntil,
        .confirmed(primary: primary, standby: standby, branch: branch, offset: offset))
      return
    }
    let known = engines[primary].confirmed[standby].offset
    engines[primary].confirmed[standby] = (max(known, offset), now)
    acknowledge(primary)
  }

  /// How far enough standbys have confirmed.
  func quorumOffset(_ engine: Int) -> Int64 {
    let offsets = voters(of: engine).map { engines[engine].confirmed[$0].offset }.sorted(by: >)
    let index = policy.acknowledgements - 1
    return index < offsets.count ? offsets[index] : 0
  }

  func voters(of engine: Int) -> [Int] { engines[engine].voters ?? (0..<members).filter { $0 != engine } }

  mutating func acknowledge(_ engine: Int) {
    guard canWork(engine), engines[engine].role == .primary else { return }
    let quorum = quorumOffset(engine)
    while engines[engine].unconfirmedHead < engines[engine].unconfirmed.count,
      engines[engine].unconfirmed[engines[engine].unconfirmedHead].offset <= quorum
    { engines[engine].unconfirmedHead += 1 }
    let isAsynchronous = policy.isBounded && !engines[engine].isHeld
    if isAsynchronous, watch(engine) { return }
    while engines[engine].pendingHead < engines[engine].pending.count {
      let first = engines[engine].pending[engines[engine].pendingHead]
      guard first.offset <= engines[engine].offset, isAsynchronous || first.offset <= quorum else { break }
      engines[engine].pendingHead += 1
      acknowledged(engine, first, quorum)
    }
    if engines[engine].pendingHead > 256 {
      engines[engine].pending.removeFirst(engines[engine].pendingHead)
      engines[engine].pendingHead = 0
    }
  }

  /// The watchdog: an agent that stands still takes its engine with it.
  @discardableResult
  mutating func watch(_ node: Int) -> Bool {
    guard policy.isBounded, options.protections.isSuperset(of: [.selfStop, .watchdog]), node < members,
      engines[node].role == .primary, engines[node].isRunning
    else { return false }
    guard now - agents[node].lastTick > policy.watchdogTimeout.wholeNanoseconds / 1000 else { return false }
    trace("watchdog ends engine \(node)")
    crash(node)
    return true
  }

  mutating func acknowledged(_ engine: Int, _ write: Pending, _ quorum: Int64) {
    let branch = engines[engine].branch
    if let record, record.primary == policy.members[engine].name, !policy.isBounded {
      let named = policy.voters(of: record)
      if !voters(of: engine).allSatisfy({ named.contains(policy.members[$0].name) }) {
        violate("engine \(engine) acknowledged on the word of one that the record doesn't name")
      }
    }
    outcome.acknowledged += 1
    outcome.outageMicroseconds = max(outcome.outageMicroseconds, now - lastAcknowledgement)
    lastAcknowledgement = now
    engines[engine].lastAcknowledged = now
    if policy.isBounded, write.offset > quorum { engines[engine].unconfirmed.append((write.offset, now)) }
    for other in branches.indices where other != branch && branches[other].lineage > branches[branch].lineage {
      if let first = branches[other].firstAcknowledged, first < write.startedAt {
        outcome.splitBrains += 1
        violate("engine \(engine) acknowledged a write begun after lineage \(branches[other].lineage) acknowledged")
      }
    }
    branches[branch].acknowledged.append((write.offset, now))
    if branches[branch].firstAcknowledged == nil { branches[branch].firstAcknowledged = now }
  }

  var isServing: Bool {
    guard let record, let primary = index(record.primary) else { return false }
    return engines[primary].role == .primary && canWork(primary) && engines[primary].lastAcknowledged > healedAt
      && now - engines[primary].lastAcknowledged < 500_000
  }

  func index(_ name: MemberName) -> Int? { policy.members.firstIndex { $0.name == name } }

  /// Where a log at `offset` of `branch` leaves another branch: how much of that it holds.
  func held(of other: Int, by branch: Int, upTo offset: Int64) -> Int64 {
    var (current, limit) = (branch, offset)
    while current >= 0 {
      if current == other { return limit }
      limit = min(limit, branches[current].fork)
      current = branches[current].parent
    }
    return 0
  }

  func position(_ engine: Int) -> EnginePosition {
    // Whose last record it is: on a branch it hasn't reached yet, it is the parent's.
    var branch = engines[engine].branch
    while branches[branch].parent >= 0, engines[engine].offset <= branches[branch].fork {
      branch = branches[branch].parent
    }
    return EnginePosition(lineage: branches[branch].lineage, offset: engines[engine].offset)
  }

  func facts(_ engine: Int) -> EngineFacts {
    let state = engines[engine]
    let age = (now - state.roleSince) / 1000
    guard state.isRunning else { return EngineFacts(role: .stopped, forMilliseconds: age) }
    guard state.stalledUntil <= now else { return EngineFacts(role: state.role, forMilliseconds: age) }
    let fresh = policy.signals.freshness.wholeNanoseconds / 1000
    var facts = EngineFacts(role: state.role, forMilliseconds: age, position: position(engine))
    if state.role == .primary {
      facts.attached = (0..<members).filter { $0 != engine && now - state.confirmed[$0].at < fresh }.map {
        policy.members[$0].name
      }
      facts.acknowledges = now - state.lastAcknowledged < fresh
      facts.isHeld = state.isHeld
      if !policy.isBounded {
        facts.voters = voters(of: engine).map { policy.members[$0].name }
        facts.votersHoldAll = quorumOffset(engine) > state.votedAt
      }
      if policy.isBounded {
        let head = state.unconfirmedHead
        facts.lagMilliseconds = head < state.unconfirmed.count ? (now - state.unconfirmed[head].at) / 1000 : 0
        facts.lagBytes = 0
      }
    } else {
      facts.following = state.following.map { policy.members[$0].name }
      facts.heardMilliseconds = state.isReceiving ? max(0, (now - state.lastHeard) / 1000) : nil
      facts.isStreaming = state.isReceiving && now - state.lastHeard < fresh
    }
    return facts
  }
}
