import Catalog
import Core
import Flags
import Foundation
import Rollouts
import StateKit
import Synchronization
import Web

/// What a rollout sees and does: the router, the new side, Prometheus, flags.
final class RolloutEyes: Sendable {
  private let plan: RolloutRuns.Input
  private let host: Machine
  private let router: any TrafficRouter
  private let runner: any ServiceRunner
  private let checks: [ReadyCheck]
  private let memory = Mutex(Memory())

  private struct Memory {
    var warm: RolloutCheck?
    var prime: RolloutCheck?
    var failedChecks = 0
    var lastRule: RolloutRule?
  }

  init(_ plan: RolloutRuns.Input, host: Machine, router: any TrafficRouter) {
    (self.plan, self.host, self.router) = (plan, host, router)
    runner = Registry.runner(host) { _, _, _ in [] }
    checks = plan.rollout.ready.enumerated().map { index, probe in ReadyCheck(probe, number: index + 1) }
  }

  var now: Int64 { host.time.monotonicNanoseconds() / 1_000_000 }

  func isNews(_ decision: RolloutDecision) -> Bool {
    memory.withLock { memory in
      defer { memory.lastRule = decision.rule }
      return memory.lastRule != decision.rule
    }
  }

  static func text(_ weights: [BackendName: Int]) -> String {
    weights.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }.joined(separator: " ")
  }

  // MARK: Looking

  func facts(_ state: RolloutState, order: RolloutFacts.Order?) async throws -> RolloutFacts {
    var facts = RolloutFacts(atMilliseconds: now, now: host.time.now(), order: order, context: plan.context)
    do throws(TrafficError) { facts.route = try await router.view() } catch { facts.routeWhy = error.report.summary }
    if state != .back {
      facts.ready = await ready()
      if state == .step || state == .keep {
        for query in plan.rollout.queries { facts.readings.append(await read(query)) }
      }
      await readFlags(&facts)
    }
    (facts.warm, facts.prime) = memory.withLock { ($0.warm, $0.prime) }
    // A part of nothing is nothing at all: whoever asked was told to stop.
    try Task.checkCancellation()
    return facts
  }

  private func ready() async -> RolloutCheck {
    for check in checks {
      do throws(ServiceError) {
        try await runner.evaluate(check, of: ServiceName(unchecked: plan.rollout.to.text))
      } catch {
        let failed = memory.withLock { memory in
          memory.failedChecks += 1
          return memory.failedChecks
        }
        // As often as the check itself may be tried.
        return RolloutCheck(failed >= min(check.attempts, 3) ? .failed : .running, why: error.report.summary)
      }
    }
    memory.withLock { $0.failedChecks = 0 }
    return RolloutCheck(.passed)
  }

  private func readFlags(_ facts: inout RolloutFacts) async {
    guard let flags = plan.rollout.flags else { return }
    do {
      let source = try FlagSources.open(flags.source, credential: flags.credential, host: host)
      let client = FlagClient(source, context: ["targetingKey": plan.rollout.name.text, "route": plan.route.name.text])
      if let text = flags.allow {
        if let key = FlagKey(text) {
          let (isAllowed, answer) = await client.allows(key)
          facts.isAllowed = isAllowed
          facts.context["flag.\(key)"] = answer.errorCode == nil ? answer.text : "error: \(answer.errorMessage ?? "")"
        } else {
          facts.isAllowed = false
        }
      }
      facts.context.merge(await FlagSources.context(client, flags.record)) { _, new in new }
    } catch {
      if flags.allow != nil { facts.isAllowed = false }
      facts.context["flags"] = "error: \(AnyFailure(error).report.summary)"
    }
  }

  /// Source: Prometheus, "HTTP API", instant queries.
  private func read(_ query: Rollout.Query) async -> RolloutReading {
    let base = query.url.hasSuffix("/") ? query.url : query.url + "/"
    var parts = URLComponents(string: base + "api/v1/query")
    parts?.queryItems = [URLQueryItem(name: "query", value: query.query)]
    // A plus would be read as a blank.
    let url = parts?.string?.replacing("+", with: "%2B") ?? query.url
    var request = WebRequest(.get, url)
    (request.timeLimit, request.stallLimit) = (.seconds(5), .seconds(5))
    do {
      let response = try await WebClient(time: host.time).send(request)
      guard response.isSuccess, let value = try? CanonicalJSON.decode(JSONValue.self, from: response.body) else {
        return RolloutReading(query.name, why: "\(query.url) answers \(response.status): \(response.excerpt)")
      }
      let result = value["data"]?["result"]
      let pair =
        value["data"]?["resultType"]?.string == "scalar" ? result?.array : result?.array?.first?["value"]?.array
      if result?.array?.count ?? 0 > 1, value["data"]?["resultType"]?.string != "scalar" {
        return RolloutReading(query.name, why: "the query gives more than one number")
      }
      guard let text = pair?.last?.string, let number = Double(text), number.isFinite, abs(number) < 1e15 else {
        return RolloutReading(query.name, why: "the query gives no number")
      }
      return RolloutReading(query.name, thousandths: Int64((number * 1000).rounded()))
    } catch { return RolloutReading(query.name, why: "\(query.url): \(error)") }
  }

  // MARK: Doing

  func perform(_ action: RolloutAction) async {
    switch action {
    case .warm:
      let outcome = await warm()
      memory.withLock { $0.warm = outcome }
    case .prime:
      let outcome = await prime()
      memory.withLock { $0.prime = outcome }
    case .weigh(let percent): await weigh(percent)
    }
  }

  private func warm() async -> RolloutCheck {
    guard let warm = plan.rollout.warm else { return RolloutCheck(.passed) }
    guard let web = try? WebClient(time: host.time) else { return RolloutCheck(.failed, why: "no client") }
    for url in warm.requests {
      var last = ""
      for _ in 0..<warm.times {
        var request = WebRequest(.get, url)
        request.headers = [("user-agent", "salvor")]
        (request.timeLimit, request.responseLimitBytes) = (.seconds(30), 16 << 20)
        do throws(WebFailure) {
          let response = try await web.send(request)
          last = (200..<400).contains(response.status) ? "" : "\(url) answers \(response.status)"
        } catch { last = "\(url): \(error)" }
      }
      if !last.isEmpty { return RolloutCheck(.failed, why: last) }
    }
    return RolloutCheck(.passed)
  }

  private func prime() async -> RolloutCheck {
    guard let command = plan.rollout.prime else { return RolloutCheck(.passed) }
    let check = ReadyCheck(
      "prime", .exec(ServiceCommand(command)), timeoutMilliseconds: Int64(command.timeout.milliseconds))
    do throws(ServiceError) {
      try await runner.evaluate(check, of: ServiceName(unchecked: plan.rollout.to.text))
      return RolloutCheck(.passed)
    } catch { return RolloutCheck(.failed, why: error.report.summary) }
  }

  /// Whoever gains first: both sides can serve, and at no moment shall none.
  private func weigh(_ percent: Int) async {
    let wanted = plan.rollout.weights(percent)
    do throws(TrafficError) {
      guard router.traits.weighs else {
        _ = try await router.weigh(wanted)
        return
      }
      let before = try await router.view().weights
      let gaining = wanted.filter { $0.value > before[$0.key] ?? 0 }
      let losing = wanted.filter { $0.value < before[$0.key] ?? 0 }
      for part in [gaining, losing] where !part.isEmpty { _ = try await router.weigh(part) }
    } catch { host.log("rollout: \(error.report)") }
  }
}
