import Catalog
import Core
import DriverKit
import Failover
import Foundation
import IO
import StateKit
import Web

/// What an agent runs with.
package struct FailoverAgentSettings: Sendable {
  package var policy: FailoverPolicy
  package var name: MemberName
  /// Below it memory and log are kept.
  package var directory: String
  /// What agents show each other.
  package var secret: Secret
  /// The routes in front of the members.
  package var traffic: FailoverTraffic?
  /// All of them, but in tests that show what one is for.
  package var protections = Protections.all
  /// Where decisions go on record, beside the agent's own.
  package var evidence: FailoverEvidence?
  /// What resets the machine if the agent stands still while its engine is a primary.
  package var watchdog: (any Watchdog)?

  package init(
    policy: FailoverPolicy, name: MemberName, directory: String, secret: Secret, evidence: FailoverEvidence? = nil,
    watchdog: (any Watchdog)? = nil
  ) {
    (self.policy, self.name, self.directory, self.secret) = (policy, name, directory, secret)
    (self.evidence, self.watchdog) = (evidence, watchdog)
  }
}

/// The agent beside one member, or a witness: looks, asks, decides, and carries out, until its task is cancelled.
package actor FailoverAgent {
  private let settings: FailoverAgentSettings
  private let policy: FailoverPolicy
  private let engine: any ReplicatedEngine
  private let store: any LeaseStore
  private let web: any WebTransport
  private let host: Machine
  private let seat: SeatName
  private let holder: Holder
  private let isMember: Bool
  private var core: AgentCore
  private var tenure: Tenure?
  private var isBusy = false
  private var outstanding: Set<String> = []
  private var lastRules: [FailoverRule] = []
  private var lastComplaint = ""
  private var lastNamed = Fence.none
  private var feed: WatchdogFeed
  private var engineHeard: Int64 = 0
  /// The last answer, or the last time we were late ourselves.
  private var silentSince: Int64?
  private var dutyPausedUntil: Int64 = 0
  private var closingUnder: Fence?
  private var engineAnsweredAt: Int64 = 0
  /// Since when our engine has stood at this position, following a primary that doesn't count it.
  private var inVain: (position: EnginePosition, since: Int64)?

  package init(
    _ settings: FailoverAgentSettings, engine: any ReplicatedEngine, store: any LeaseStore, web: any WebTransport,
    host: Machine
  ) throws {
    (self.settings, policy, self.engine, self.store) = (settings, settings.policy, engine, store)
    (self.web, self.host) = (web, host)
    seat = SeatName(unchecked: policy.name.text)
    holder = Holder("\(settings.name)-\(String(host.randomness.next(), radix: 16))")
    isMember = policy.members.contains { $0.name == settings.name }
    feed = WatchdogFeed(settings.policy)
    try Files.createDirectory(settings.directory, mode: 0o700)
    var memory = AgentMemory()
    let path = Self.memoryPath(settings)
    if Files.exists(path) {
      // One that can't be read is no reason to forget: what was promised may be in it.
      memory = try CanonicalJSON.decode(AgentMemory.self, from: Files.read(path, limitBytes: 65_536))
    }
    core = AgentCore(
      policy, as: settings.name, memory: memory, at: host.time.monotonicNanoseconds() / 1_000_000,
      protections: settings.protections)
    core.routersSaid(settings.traffic?.untold)
  }

  /// The highest epoch that an agent here has promised to obey.
  package static func promised(_ directory: String, _ policy: PolicyName, _ member: MemberName) throws -> Fence {
    let path = "\(directory)/\(policy)-\(member).json"
    guard Files.exists(path) else { return .none }
    return try CanonicalJSON.decode(AgentMemory.self, from: Files.read(path, limitBytes: 65_536)).promised
  }

  private static func memoryPath(_ settings: FailoverAgentSettings) -> String {
    "\(settings.directory)/\(settings.policy.name)-\(settings.name).json"
  }

  package static func logPath(_ directory: String, _ policy: PolicyName, _ member: MemberName) -> String {
    "\(directory)/\(policy)-\(member).log"
  }

  private var now: Int64 { host.time.monotonicNanoseconds() / 1_000_000 }

  // MARK: Running

  /// Looks and acts until its task is cancelled.
  package func run() async throws {
    // In good order: an agent that was killed disarms nothing.
    defer { letGo() }
    try await withThrowingTaskGroup(of: Void.self) { group in
      group.addTask { try await self.repeating { await self.lookAtPrimary() } }
      group.addTask { try await self.repeating { await self.viewStore() } }
      if isMember {
        group.addTask { try await self.repeating { await self.askEngine() } }
        group.addTask { try await self.repeating { await self.beat() } }
      }
      for peer in policy.members + policy.witnesses where peer.name != settings.name {
        group.addTask { try await self.repeating { await self.ask(peer) } }
      }
      group.addTask { try await self.watchSignals() }
      if let evidence = settings.evidence {
        let record = Self.logPath(settings.directory, policy.name, settings.name)
        group.addTask { try await evidence.run(catchingUpWith: record) }
      }
      // Actions have tasks of their own in here, so that none waits for another.
      group.addTask { try await self.decide() }
      try await group.waitForAll()
    }
  }

  private func repeating(_ body: @Sendable () async -> Void) async throws {
    while true {
      await body()
      try await host.time.sleep(for: core.standing.state.isConducting ? .milliseconds(40) : policy.signals.interval)
    }
  }

  /// What checks find, and what else is true around here.
  private func watchSignals() async throws {
    let watch = SignalWatch(policy, isMember: isMember, web: web, host: host)
    let policy = policy
    try await withThrowingTaskGroup(of: Void.self) { group in
      group.addTask {
        try await watch.run(primary: { await self.primaryMember }) { await self.sampled($0, $1, of: $2) }
      }
      group.addTask {
        while true {
          let context = await self.host.pool.run { PolicyFiles.context(of: policy) }
          await self.surround(context, PolicyFiles.zones(of: policy, at: self.host.time.now()))
          try await self.host.time.sleep(for: .seconds(1))
        }
      }
      try await group.waitForAll()
    }
  }

  private var primaryMember: FailoverPolicy.Member? { policy.members.first { $0.name == core.primary } }

  private func sampled(_ check: CheckName, _ sample: SignalSample, of subject: MemberName?) {
    // About whoever was primary when it was asked.
    if subject == nil || subject == core.primary { core.sampled(check, sample, at: now) }
  }

  private func surround(_ context: [String: String]?, _ zones: [String: Int]?) {
    core.surroundings = .init(context: context, zones: zones)
  }

  private func decide() async throws {
    let interval = policy.signals.interval.wholeMilliseconds
    var planned = now
    try await withThrowingDiscardingTaskGroup { group in
      while true {
        let isPlanned = now >= planned
        if now - planned > policy.signals.doubt.wholeMilliseconds { silentSince = now }
        if isPlanned { planned = now + interval }
        for work in look(isPlanned: isPlanned) { group.addTask { await work() } }
        let isHurried = core.standing.state.isConducting || core.standing.state == .claim
        try await host.time.sleep(for: isHurried ? .milliseconds(20) : .milliseconds(max(1, planned - now)))
      }
    }
  }

  private func look(isPlanned: Bool) -> [@Sendable () async -> Void] {
    forgetEngine()
    let before = core.standing
    let outcome = core.look(at: now, wall: host.time.now(), isPlanned: isPlanned)
    record(before, outcome)
    if isPlanned { watch(outcome.duty) }
    var work: [@Sendable () async -> Void] = []
    for action in outcome.actions where outstanding.insert(key(action)).inserted {
      work.append { await self.perform(action) }
    }
    if let closing = closeTraffic() { work.append(closing) }
    // Whatever else is under way: it waits for the same engine.
    if let engine = core.engine, let since = silentSince, policy.mustEnd(engine, silentFor: now - since),
      settings.protections.contains(.selfStop), outstanding.insert("end").inserted
    {
      work.append { await self.endWhatStandsStill() }
    }
    if let duty = outcome.duty ?? rejoiningInVain(outcome.facts), !isBusy, now >= dutyPausedUntil {
      isBusy = true
      work.append { await self.perform(duty) }
    }
    switch outcome.voterStep {
    case .acknowledge(let voters, let rule)? where !isBusy && now >= dutyPausedUntil:
      isBusy = true
      work.append { await self.acknowledge(by: voters, rule) }
    case .record(let record, let rule)? where outstanding.insert("voters").inserted:
      guard let known = outcome.facts.store?.record else { break }
      // From here until it is answered nobody knows what is written.
      core.confirmed(nil)
      work.append { await self.rewrite(known, as: record, rule) }
    default: break
    }
    return work
  }

  /// The old side is closed beside its fencing, once per epoch; nothing waits for it. In a switchover its engine's stop does.
  private func closeTraffic() -> (@Sendable () async -> Void)? {
    let standing = core.standing
    guard let traffic = settings.traffic, standing.state.isConducting, let epoch = standing.epoch,
      epoch != closingUnder, let subject = standing.subject, standing.basis != Fence.none,
      standing.order?.kind != .switchover
    else { return nil }
    closingUnder = epoch
    return { await traffic.close(subject, epoch) }
  }

  /// A primary that ended had more than its successor, perhaps, and was started as a standby: it can follow nobody so.
  private func rejoiningInVain(_ facts: FailoverFacts) -> MemberDuty? {
    let freshness = policy.signals.freshness.wholeMilliseconds
    guard let engine = core.engine, engine.role == .standby, let position = engine.position, let store = facts.store,
      store.ageMilliseconds <= freshness, store.conductor == nil, let record = store.record,
      engine.following == record.primary, let primary = facts.member(record.primary), let report = primary.report,
      (primary.reportAgeMilliseconds ?? .max) <= freshness, report.engine?.role == .primary,
      report.engine?.acknowledges == true, report.engine?.attached.contains(settings.name) == false,
      core.obeys(record.epoch)
    else {
      inVain = nil
      return nil
    }
    if inVain?.position != position { inVain = (position, now) }
    guard let inVain, now - inVain.since >= policy.budgets.restart.wholeMilliseconds else { return nil }
    self.inVain = nil
    return .rejoin(record.primary, record.epoch, .followsInVain)
  }

  private func record(_ before: FailoverStanding, _ outcome: AgentCore.Outcome) {
    let rules = outcome.decisions.map(\.rule)
    guard rules != lastRules else { return }
    lastRules = rules
    let entry = FailoverLogEntry(
      at: host.time.now(), policy: policy, before: before, facts: outcome.facts, decisions: outcome.decisions)
    for decision in outcome.decisions {
      var line =
        "\(settings.name): \(decision.rule.rawValue) \(decision.next.state.rawValue): \(decision.rule.row.says)"
      if !decision.reasons.isEmpty { line += " (\(decision.reasons.map(\.description).joined(separator: "; ")))" }
      host.log(line)
    }
    let path = Self.logPath(settings.directory, policy.name, settings.name)
    do {
      let line = try entry.line()
      let file = try File(path, O_WRONLY | O_CREAT | O_APPEND, mode: 0o600)
      try line.withUnsafeBytes { try file.write($0) }
      settings.evidence?.decided(entry, line)
    } catch { host.log("\(settings.name): the decision can't be written down: \(AnyFailure(error).report.summary)") }
  }

  private func key(_ action: FailoverAction) -> String {
    switch action {
    case .claim: "claim"
    case .release: "release"
    case .record: "record"
    case .fence(let name, _): "fence \(name)"
    case .stop(let name, _): "stop \(name)"
    case .promote(let name, _): "promote \(name)"
    case .follow(let name, _, _): "follow \(name)"
    case .shift: "shift"
    }
  }

  // MARK: Looking

  private func lookAtPrimary() async {
    guard let primary = core.primary else { return }
    let sight = await engine.sight(of: primary)
    core.saw(primary, sight, at: now)
  }

  private func askEngine() async {
    guard !isBusy else { return }
    do throws(DriverError) {
      let facts = try await engine.facts()
      // What was asked before an operation began says nothing about after it.
      if !isBusy { core.engineSaid(facts, at: now) }
      engineAnsweredAt = now
      engineHeard = now
      silentSince = now
    } catch {
      if !isBusy, let known = core.engine, known.role != .stopped {
        var facts = EngineFacts(role: known.role)
        (facts.isHeld, facts.lagMilliseconds, facts.lagBytes) = (known.isHeld, known.lagMilliseconds, known.lagBytes)
        core.engineSaid(facts, at: now)
      }
      complain(error.report.summary)
    }
  }

  /// An engine that stands still gives no answer, and what it said before is no news of it.
  private func forgetEngine() {
    guard !isBusy, now - engineAnsweredAt > policy.signals.freshness.wholeMilliseconds, let known = core.engine,
      known.role != .stopped, known.position != nil
    else { return }
    var facts = EngineFacts(role: known.role, forMilliseconds: known.forMilliseconds, following: known.following)
    (facts.isHeld, facts.lagMilliseconds, facts.lagBytes) = (known.isHeld, known.lagMilliseconds, known.lagBytes)
    core.engineSaid(facts, at: now)
  }

  private func beat() async {
    guard core.engine?.role == .primary else { return }
    do throws(DriverError) { try await engine.beat() } catch { complain(error.report.summary) }
  }

  private func ask(_ peer: FailoverPolicy.Member) async {
    let asked = now
    guard let report = await post(peer, "/v1/report", nil) else { return }
    core.heard(report, at: asked)
  }

  private func viewStore() async {
    let asked = now
    do throws(LeaseError) {
      if let tenure {
        do throws(LeaseError) { try await store.renew(tenure) } catch {
          if case .lapsed = error { self.tenure = nil }
        }
      }
      let view = try await store.view(seat)
      hear(view, askedAt: asked)
    } catch { complain(error.report.summary) }
  }

  private func hear(_ view: SeatView, askedAt asked: Int64) {
    let record = view.record.flatMap { try? CanonicalJSON.decode(PrimaryRecord.self, from: $0) }
    let order = view.order.flatMap { try? CanonicalJSON.decode(FailoverOrder.self, from: $0) }
    if view.record != nil, record == nil { return complain("the record in the lease store can't be read") }
    let conductor = view.tenure.map { found in
      StoreFacts.Conductor(
        holder: found.holder, epoch: found.fence, isMine: found.holder == holder && found.fence == tenure?.fence)
    }
    if let record, record.epoch > lastNamed {
      lastNamed = record.epoch
      settings.evidence?.named(record)
    }
    core.storeSaid(record, conductor, order, askedAt: asked)
  }

  // MARK: The watchdog

  private func watch(_ duty: MemberDuty?) {
    guard let watchdog = settings.watchdog else { return }
    do throws(WatchdogError) {
      switch feed.looked(core.engine, age: now - engineHeard, duty: duty) {
      case .nothing, .starve: break
      case .arm:
        try watchdog.arm(policy.watchdogTimeout)
        let limit = policy.watchdogTimeout.brief
        host.log("\(settings.name): the watchdog resets this machine after \(limit) without a look")
      case .feed: try watchdog.feed()
      case .disarm: try watchdog.disarm()
      }
    } catch {
      feed.refused()
      complain(error.report.summary)
    }
  }

  private func letGo() {
    do throws(WatchdogError) { try settings.watchdog?.disarm() } catch { complain(error.report.summary) }
  }

  private func complain(_ text: String) {
    if text != lastComplaint { host.log("\(settings.name): \(text)") }
    lastComplaint = text
  }

  // MARK: Acting

  private func perform(_ action: FailoverAction) async {
    defer { outstanding.remove(key(action)) }
    do throws(LeaseError) {
      switch action {
      case .claim:
        if tenure != nil { return }
        tenure = try await store.take(seat, as: holder, for: policy.budgets.lease)
        await viewStore()
      case .release:
        if let tenure { try await store.release(tenure) }
        tenure = nil
      case .record(let record):
        guard let tenure, tenure.fence == record.epoch, let bytes = try? CanonicalJSON.encode(record) else { return }
        try await store.write(bytes, under: tenure)
        await viewStore()
      case .stop(let name, let epoch):
        // In good order: clients wait, or are elsewhere, before what they talk to ends.
        await settings.traffic?.close(name, epoch)
        await command(action, name)
      case .fence(let name, _), .promote(let name, _), .follow(let name, _, _):
        await command(action, name)
      case .shift(let name, let epoch):
        if let traffic = settings.traffic {
          await traffic.open(name, epoch)
          core.routersSaid(await traffic.facts)
        }
        host.log("\(settings.name): \(name) serves under epoch \(epoch)")
      }
    } catch {
      if case .taken = error { return }
      complain(error.report.summary)
    }
  }

  private func command(_ action: FailoverAction, _ name: MemberName) async {
    let asked = now
    if name == settings.name {
      _ = await obey(action)
    } else if let peer = policy.members.first(where: { $0.name == name }),
      let report = await post(peer, "/v1/command", try? CanonicalJSON.encode(action))
    {
      core.heard(report, at: asked)
    } else {
      // Not again at once: nobody is there to hear it.
      try? await host.time.sleep(for: .milliseconds(100))
    }
  }

  private func post(_ peer: FailoverPolicy.Member, _ path: String, _ body: [UInt8]?) async -> AgentReport? {
    var request = WebRequest(body == nil ? .get : .post, peer.agent + path)
    request.headers = [("authorization", "Bearer \(settings.secret.revealed())"), ("content-type", "application/json")]
    request.body = body
    request.responseLimitBytes = 1 << 16
    request.timeLimit = body == nil ? .seconds(1) : .seconds(20)
    guard let response = try? await web.send(request), response.isSuccess else { return nil }
    guard let report = try? CanonicalJSON.decode(AgentReport.self, from: response.body), report.member == peer.name
    else {
      return nil
    }
    return report
  }

  /// What this agent says of itself.
  package func report() -> AgentReport {
    var report = core.report(at: now)
    if isBusy { report.isDetached = false }
    return report
  }

  package func status() -> FailoverFacts { core.facts(at: now, wall: host.time.now()) }

  package var standing: FailoverStanding { core.standing }

  /// Whether clients belong here: for a proxy's health check.
  package var serves: Bool {
    core.engine?.role == .primary && core.primary == settings.name && !core.memory.isFenced
  }

  /// Ends the engine as a crash would, because a failover is practised: only if this agent's own policy allows it, and only
  /// what serves under that epoch.
  ///
  /// - Returns: Why not.
  package func crash(asPractised epoch: Fence) async -> FailoverReason? {
    guard policy.practice?.kind == .failover else { return FailoverReason("its policy doesn't allow it") }
    guard isMember, !isBusy, core.engine?.role == .primary, core.primary == settings.name,
      status().store?.record?.epoch == epoch, status().store?.conductor == nil
    else { return FailoverReason("it doesn't serve under epoch \(epoch), or something is under way") }
    isBusy = true
    defer { isBusy = false }
    host.log("\(settings.name): its engine is ended, because a failover is practised")
    do throws(DriverError) {
      try await engine.stop(inOrder: false)
      return nil
    } catch { return FailoverReason(error.report.summary) }
  }

  /// Carries a command out, if no higher epoch has been obeyed; says how things are after it.
  package func obey(_ action: FailoverAction) async -> AgentReport {
    guard isMember, !isBusy else { return report() }
    isBusy = true
    defer { isBusy = false }
    do {
      switch action {
      case .fence(let name, let epoch) where name == settings.name && core.obeysFence(epoch):
        core.promise(epoch)
        try await remember()
        // A primary follows nobody; and one that stands still would keep us waiting, while its end may be due.
        if core.engine?.role == .primary {
          isBusy = false
          return report()
        }
        try await engine.detach()
      case .stop(let name, let epoch) where name == settings.name && core.obeysFence(epoch):
        core.promise(epoch)
        try await remember()
        try await engine.stop(inOrder: true)
      case .promote(let name, let epoch) where name == settings.name && core.obeys(epoch):
        core.settle(epoch)
        try await remember()
        try await engine.promote()
      case .follow(let name, let primary, let epoch)
      where name == settings.name && core.obeys(epoch) && core.engine?.role == .standby:
        core.settle(epoch)
        try await remember()
        try await engine.follow(primary)
      default: break
      }
      // The position is read after the detachment, never before.
      core.engineSaid(try await engine.facts(), at: now)
    } catch { complain(AnyFailure(error).report.summary) }
    isBusy = false
    return report()
  }

  private func perform(_ duty: MemberDuty) async {
    defer { isBusy = false }
    if case .hold = duty {} else { host.log("\(settings.name): \(duty.rule.rawValue): \(duty.rule.says)") }
    do {
      switch duty {
      case .stop: try await engine.stop(inOrder: false)
      case .start: try await engine.start(detached: core.memory.isFenced)
      case .hold(let holds, _): try await engine.hold(holds)
      case .promote(let epoch, _):
        guard core.obeys(epoch) else { return }
        core.settle(epoch)
        try await remember()
        try await engine.promote()
      case .follow(let primary, let epoch, _):
        guard core.obeys(epoch) else { return }
        core.settle(epoch)
        try await remember()
        try await engine.follow(primary)
      case .rejoin(let primary, let epoch, _):
        guard core.obeys(epoch) else { return }
        core.settle(epoch)
        try await remember()
        try await engine.rejoin(primary)
      }
      core.engineSaid(try await engine.facts(), at: now)
    } catch {
      complain(AnyFailure(error).report.summary)
      dutyPausedUntil = now + 2000
    }
  }

  private func endWhatStandsStill() async {
    defer { outstanding.remove("end") }
    let rule = DutyRule.standsStill
    host.log("\(settings.name): \(rule.rawValue): \(rule.says)")
    do {
      try await engine.stop(inOrder: false)
      core.engineSaid(try await engine.facts(), at: now)
      silentSince = now
    } catch { complain(AnyFailure(error).report.summary) }
  }

  private func acknowledge(by voters: [MemberName], _ rule: VoterRule) async {
    defer { isBusy = false }
    host.log("\(settings.name): \(rule.rawValue): \(rule.says): \(voters.map(\.text).joined(separator: ", "))")
    do {
      try await engine.acknowledge(by: voters)
      core.engineSaid(try await engine.facts(), at: now)
    } catch {
      complain(AnyFailure(error).report.summary)
      dutyPausedUntil = now + 2000
    }
  }

  /// Under a lease of its own, so that nothing that was sent before can be written after it.
  private func rewrite(_ known: PrimaryRecord, as record: PrimaryRecord, _ rule: VoterRule) async {
    defer { outstanding.remove("voters") }
    do throws(LeaseError) {
      let lent = try await store.take(seat, as: holder, for: .seconds(2))
      let found = try await store.view(seat).record.flatMap { try? CanonicalJSON.decode(PrimaryRecord.self, from: $0) }
      if found == known, let bytes = try? CanonicalJSON.encode(record) {
        try await store.write(bytes, under: lent)
        core.confirmed(record.voters)
        let names = (record.voters ?? []).map(\.text).joined(separator: ", ")
        host.log("\(settings.name): \(rule.rawValue): \(rule.says): \(names)")
      }
      try await store.release(lent)
      await viewStore()
    } catch {
      if case .taken = error { return }
      complain(error.report.summary)
    }
  }

  /// On stable storage before anything is done or said because of it.
  private func remember() async throws {
    let (path, bytes) = (Self.memoryPath(settings), try CanonicalJSON.encode(core.memory))
    try await host.pool.run { () throws(SystemFailure) in try Files.replace(path, with: bytes) }
  }
}
