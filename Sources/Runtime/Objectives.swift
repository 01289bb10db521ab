import Catalog
import Core
import Drills
import Planning
import Recovery
import StateKit

/// What was asked of each service and domain, what is likely, what was measured, and until when that counts.
package struct Objectives: Sendable {
  package struct Line: Sendable, Codable, Equatable {
    package enum Verdict: String, Sendable, Codable {
      /// Asked, predicted and proven.
      case met
      /// Predicted or measured to take longer, or to lose more.
      case missed
      /// Nobody has measured enough to say.
      case unknown
      /// Nothing is asked.
      case none
    }

    /// A service's name, or a domain's.
    package var name: String
    package var rpoAskedSeconds: Double?
    /// What may be lost if it happens right before the next point.
    package var rpoPredictedSeconds: Double?
    /// What would be lost now.
    package var rpoNowSeconds: Double?
    package var rpoVerdict: Verdict
    package var rtoAskedSeconds: Double?
    /// At the 95th percentile of measured steps; `nil` if a step was never measured.
    package var rtoPredictedSeconds: Double?
    /// By the newest drill in which it came back.
    package var rtoMeasuredSeconds: Double?
    package var rtoVerdict: Verdict
    package var proof: DrillProof.State
    package var provenUntil: Timestamp?
    /// Most effect first; empty if nothing is missed.
    package var advice: [ObjectiveAdvice]
  }

  package struct View: Sendable, Codable, Equatable {
    package var services: [Line]
    package var domains: [Line]

    package var missesAny: Bool {
      (services + domains).contains { $0.rpoVerdict == .missed || $0.rtoVerdict == .missed }
    }
  }

  private let system: ManagedSystem
  private let journal: any RunJournal

  package init(_ system: ManagedSystem, journal: any RunJournal) { (self.system, self.journal) = (system, journal) }

  package func view() async throws(AnyFailure) -> View {
    do {
      let catalog = system.catalog
      let records = try await DrillHistory(journal, system).list()
      let standings = try await Logs(system).standings(catalog.stores.map(\.name))
      let losses = Dictionary(standings.map { ($0.store, $0) }, uniquingKeysWith: { first, _ in first })
      let (plan, input) = try await plan()
      var services: [Line] = []
      for service in catalog.services { services.append(line(service, records, losses, plan, input)) }
      let domains = Dictionary(grouping: catalog.services.filter { $0.domain != nil }, by: { $0.domain ?? "" })
      let lines = domains.sorted { $0.key < $1.key }.map { name, members in
        domain(name, services.filter { line in members.contains { $0.name.text == line.name } })
      }
      return View(services: services, domains: lines)
    } catch {
      throw AnyFailure(error)
    }
  }

  /// The plan of everything from the newest point; `nil` where there is none.
  private func plan() async throws -> (RestorePlan?, PlanInput?) {
    do {
      return try await Restore(system, journal: journal).promised()
    } catch {
      guard AnyFailure(error).report.code == "POINT-203" else { throw error }
      return (nil, nil)
    }
  }

  private func line(
    _ service: Service, _ records: [DrillRecord], _ losses: [StoreName: Logs.Standing], _ plan: RestorePlan?,
    _ input: PlanInput?
  ) -> Line {
    let proof = DrillProof(of: service.name, records, now: system.host.time.now())
    let prediction = plan?.predictions.first { $0.service == service.name }
    var line = Line(
      name: service.name.text, rpoAskedSeconds: service.objectives.rpo?.seconds, rpoVerdict: .none,
      rtoAskedSeconds: service.objectives.rto?.seconds,
      rtoPredictedSeconds: prediction.flatMap { $0.isComplete ? $0.seconds : nil },
      rtoMeasuredSeconds: DrillTrend(of: service.name, records).newestSeconds, rtoVerdict: .none, proof: proof.state,
      provenUntil: proof.until, advice: [])
    let own = service.stores.map { losses[$0] }
    if !service.stores.isEmpty {
      let now = own.compactMap { $0?.rpoSeconds }
      line.rpoNowSeconds = now.count == own.count ? now.max() : nil
      let each = service.stores.map { worstLoss(of: $0, losses[$0]) }
      line.rpoPredictedSeconds = each.contains { $0 == nil } ? nil : each.compactMap(\.self).max()
    }
    if let asked = line.rpoAskedSeconds, !service.stores.isEmpty {
      let known = [line.rpoPredictedSeconds, line.rpoNowSeconds].compactMap(\.self)
      line.rpoVerdict =
        known.contains { $0 > asked } ? .missed : line.rpoPredictedSeconds == nil ? .unknown : .met
    }
    if let asked = line.rtoAskedSeconds {
      let known = [line.rtoPredictedSeconds, line.rtoMeasuredSeconds].compactMap(\.self)
      let isKnown = line.rtoPredictedSeconds != nil && proof.state == .proven
      line.rtoVerdict =
        proof.state == .failed || known.contains { $0 > asked } ? .missed : isKnown ? .met : .unknown
    }
    if line.rtoVerdict == .missed, let input {
      line.advice = Array(RestorePlan.advice(for: service.name, input).prefix(5))
    }
    return line
  }

  /// What a store loses at worst: what lies between two points, or the second in which a log that is followed is written.
  private func worstLoss(of store: StoreName, _ standing: Logs.Standing?) -> Double? {
    if standing?.state == .followed, let now = standing?.rpoSeconds { return now }
    let periods = system.catalog.policies.filter { $0.stores.contains(store) }.compactMap { policy -> Double? in
      guard let schedule = policy.schedule else { return nil }
      if case .every(let period) = schedule { return period.seconds }
      // Of cron, the longest of the next pauses.
      var (last, longest) = (system.host.time.now(), 0.0)
      for number in 0..<64 {
        guard let next = schedule.next(after: last) else { return nil }
        if number > 0 { longest = max(longest, (next - last).seconds) }
        last = next
      }
      return longest
    }
    return periods.min()
  }

  /// A domain is as good as the worst of its services.
  private func domain(_ name: String, _ lines: [Line]) -> Line {
    func worst(_ path: KeyPath<Line, Double?>) -> Double? {
      let values = lines.map { $0[keyPath: path] }
      return values.contains { $0 == nil } ? nil : values.compactMap(\.self).max()
    }
    func verdict(_ path: KeyPath<Line, Line.Verdict>) -> Line.Verdict {
      let verdicts = lines.map { $0[keyPath: path] }.filter { $0 != .none }
      if verdicts.isEmpty { return .none }
      return verdicts.contains(.missed) ? .missed : verdicts.contains(.unknown) ? .unknown : .met
    }
    let states = lines.map(\.proof)
    let proof: DrillProof.State =
      states.contains(.failed) ? .failed : states.contains(.unproven) ? .unproven : .proven
    return Line(
      name: name, rpoAskedSeconds: lines.compactMap(\.rpoAskedSeconds).min(),
      rpoPredictedSeconds: worst(\.rpoPredictedSeconds), rpoNowSeconds: lines.compactMap(\.rpoNowSeconds).max(),
      rpoVerdict: verdict(\.rpoVerdict), rtoAskedSeconds: lines.compactMap(\.rtoAskedSeconds).min(),
      rtoPredictedSeconds: worst(\.rtoPredictedSeconds), rtoMeasuredSeconds: worst(\.rtoMeasuredSeconds),
      rtoVerdict: verdict(\.rtoVerdict), proof: proof,
      provenUntil: proof == .proven ? lines.compactMap(\.provenUntil).min() : nil, advice: [])
  }
}
