import Catalog
import Core
import Failover
import Governance
import IO
import StateKit
import Web

/// What came of a practice.
package struct PracticeResult: Sendable, Equatable, Codable {
  /// What a program that stands for clients found.
  package struct Probe: Sendable, Equatable, Codable {
    package var attempts = 0
    package var failed = 0
    /// Between the ends of two attempts that went well, the longest.
    package var longestSilenceMilliseconds: Int64 = 0
  }

  package var id: String
  package var policy: PolicyName
  package var kind: FailoverPractice.Kind
  package var startedAt: Timestamp
  package var finishedAt: Timestamp
  package var outcome: PracticeStanding.Outcome
  package var rule: PracticeRule
  package var reasons: [FailoverReason]
  package var moves: [PracticeMove]
  package var withinMilliseconds: Int64
  package var probe: Probe?
}

/// Carries a practice out: asks agents and the lease store, decides by ``Practice``, leaves orders.
package struct PracticeRunner: Sendable {
  private let practice: Practice
  private let store: any LeaseStore
  private let web: any WebTransport
  private let secret: Secret
  private let host: Machine
  private let journal: any RunJournal

  package init(
    _ practice: Practice, store: any LeaseStore, web: any WebTransport, secret: Secret, host: Machine,
    journal: any RunJournal
  ) {
    (self.practice, self.store, self.web, self.secret) = (practice, store, web, secret)
    (self.host, self.journal) = (host, journal)
  }

  static let practised = "failover.practised"

  /// When a policy was last practised, whatever came of it; one that could not be begun doesn't count.
  package static func last(of policy: PolicyName, in entries: [(index: Int64, entry: LogEntry)]) -> PracticeResult? {
    results(of: policy, in: entries).last { $0.outcome != .couldNotRun }
  }

  package static func results(
    of policy: PolicyName?, in entries: [(index: Int64, entry: LogEntry)]
  ) -> [PracticeResult] {
    entries.compactMap { _, entry in
      guard entry.action == practised, let bytes = try? CanonicalJSON.encode(entry.details),
        let result = try? CanonicalJSON.decode(PracticeResult.self, from: bytes),
        policy == nil || result.policy == policy
      else { return nil }
      return result
    }
  }

  private var now: Int64 { host.time.monotonicNanoseconds() / 1_000_000 }

  /// - Parameters:
  ///   - probe: A program that ends with 0 if clients have service; run again and again.
  ///   - say: What changes, for people.
  package func run(probe: Command?, say: @escaping @Sendable (String) -> Void) async throws -> PracticeResult {
    let policy = practice.policy
    let startedAt = host.time.now()
    var details: [String: JSONValue] = ["practice": .string(practice.id), "kind": .string(practice.plan.kind.rawValue)]
    if let target = practice.target { details["target"] = .string(target.text) }
    return try await RecordedAct.carryOut(
      .failover, FailoverLogEntry.subject(policy.name), details: .object(details), host: host, journal: journal
    ) { act in
      let meter = PracticeProbe()
      let decision = try await withThrowingTaskGroup(of: PracticeDecision?.self) { group in
        if let probe { group.addTask { try await meter.watch(probe, host) } }
        group.addTask { try await conduct(say) }
        defer { group.cancelAll() }
        while let found = try await group.next() { if let found { return found } }
        throw CancellationError()
      }
      let standing = decision.next
      var outcome = standing.outcome ?? .failed
      var reasons = decision.reasons
      let probed = probe == nil ? nil : await meter.result
      let within = practice.plan.within.wholeMilliseconds
      if let probed, outcome == .passed {
        if probed.failed == probed.attempts {
          (outcome, reasons) = (.failed, [FailoverReason("clients never had service")])
        } else if probed.longestSilenceMilliseconds > within {
          (outcome, reasons) = (
            .failed, [FailoverReason("clients had no service for \(probed.longestSilenceMilliseconds) ms")]
          )
        }
      }
      let result = PracticeResult(
        id: practice.id, policy: policy.name, kind: practice.plan.kind, startedAt: startedAt,
        finishedAt: host.time.now(), outcome: outcome, rule: decision.rule, reasons: reasons, moves: standing.moves,
        withinMilliseconds: within, probe: probed)
      let value = try CanonicalJSON.decode(JSONValue.self, from: CanonicalJSON.encode(result))
      try await journal.append(
        AuditDraft(
          run: act.run, actor: practice.by, action: Self.practised, subject: FailoverLogEntry.subject(policy.name),
          details: value), under: nil)
      return (result, ["outcome": .string(outcome.rawValue)])
    }
  }

  private func conduct(_ say: @Sendable (String) -> Void) async throws -> PracticeDecision {
    var standing = PracticeStanding(at: now)
    var said: PracticeRule?
    while true {
      let decision = practice.decide(standing, try await facts())
      if decision.rule != said {
        let why = decision.reasons.isEmpty ? "" : " (\(decision.reasons.map(\.description).joined(separator: "; ")))"
        say("\(decision.rule.rawValue) \(decision.rule.says)\(why)")
        said = decision.rule
      }
      standing = decision.next
      switch decision.step {
      case .wait: break
      case .order(let order), .withdraw(let order):
        try await FailoverOrders.leave(order, for: practice.policy, in: store, host: host, journal: journal)
      case .kill(let member, let epoch): try await crash(member, epoch)
      }
      if standing.phase == .over { return decision }
      try await host.time.sleep(for: .milliseconds(50))
    }
  }

  private func facts() async throws -> PracticeFacts {
    async let reports = reports()
    let view: SeatView?
    do { view = try await store.view(SeatName(unchecked: practice.policy.name.text)) } catch {
      // The same as nobody recorded: begins nothing, and ends what hasn't begun.
      view = nil
    }
    return PracticeFacts(
      atMilliseconds: now, reports: await reports,
      record: view?.record.flatMap { try? CanonicalJSON.decode(PrimaryRecord.self, from: $0) },
      isConducted: view?.tenure != nil,
      order: view?.order.flatMap { try? CanonicalJSON.decode(FailoverOrder.self, from: $0) })
  }

  private func reports() async -> [AgentReport] {
    await withTaskGroup(of: AgentReport?.self) { group in
      for member in practice.policy.members + practice.policy.witnesses {
        group.addTask {
          var request = request(.get, member, "/v1/report")
          request.timeLimit = .seconds(1)
          guard let answer = try? await web.send(request), answer.isSuccess,
            let report = try? CanonicalJSON.decode(AgentReport.self, from: answer.body), report.member == member.name
          else { return nil }
          return report
        }
      }
      return await group.reduce(into: []) { if let report = $1 { $0.append(report) } }
    }
  }

  private func crash(_ name: MemberName, _ epoch: Fence) async throws {
    guard let member = practice.policy.members.first(where: { $0.name == name }) else { return }
    var request = request(.post, member, "/v1/practise")
    request.body = try CanonicalJSON.encode(PractisedCrash(epoch: epoch))
    request.timeLimit = .seconds(20)
    let answer: WebResponse
    do { answer = try await web.send(request) } catch {
      throw FailoverFailure.notPractised(name.text, AnyFailure(error).report.summary)
    }
    guard answer.isSuccess else {
      throw FailoverFailure.notPractised(name.text, String(decoding: answer.body.prefix(512), as: UTF8.self))
    }
  }

  private func request(_ method: WebRequest.Method, _ member: FailoverPolicy.Member, _ path: String) -> WebRequest {
    var request = WebRequest(method, member.agent + path)
    request.headers = [("authorization", "Bearer \(secret.revealed())"), ("content-type", "application/json")]
    request.responseLimitBytes = 1 << 16
    return request
  }
}

/// What an agent is asked for when a failover is practised.
struct PractisedCrash: Codable, Sendable {
  /// Under which it must serve.
  var epoch: Fence
}

/// A program that stands for clients.
private actor PracticeProbe {
  private(set) var result = PracticeResult.Probe()
  private var lastGood: Int64?

  /// Until its task is cancelled.
  func watch(_ command: Command, _ host: Machine) async throws -> PracticeDecision? {
    let secrets = SecretResolver(environment: host.environment, pool: host.pool)
    while true {
      let isGood = ((try? await execute(command, secrets))?.status ?? 1) == 0
      try Task.checkCancellation()
      note(isGood, host.time.monotonicNanoseconds() / 1_000_000)
      try await host.time.sleep(for: .milliseconds(50))
    }
  }

  private func note(_ isGood: Bool, _ now: Int64) {
    result.attempts += 1
    let silence = now - (lastGood ?? now)
    result.longestSilenceMilliseconds = max(result.longestSilenceMilliseconds, silence)
    if isGood { lastGood = now } else { result.failed += 1 }
  }
}
