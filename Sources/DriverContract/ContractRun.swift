import Core
import DriverKit

/// All promises of one driver, one after the other, for a report.
package struct ContractRun<Fixture: DriverFixture>: Sendable {
  /// One promise: its name, and what throws if it is broken.
  package struct Promise: Sendable {
    package var name: String
    package var body: @Sendable () async throws -> Void

    package init(_ name: String, _ body: @escaping @Sendable () async throws -> Void) {
      (self.name, self.body) = (name, body)
    }
  }

  /// One promise, and how it went.
  package struct Outcome: Sendable, Equatable, Codable {
    package var promise: String
    package var isKept: Bool
    package var milliseconds: Int64
    /// What was promised and what was seen, if it was broken.
    package var why: String?

    package init(promise: String, isKept: Bool, milliseconds: Int64, why: String? = nil) {
      (self.promise, self.isKept, self.milliseconds, self.why) = (promise, isKept, milliseconds, why)
    }
  }

  /// What of a store the promises depend on.
  package struct Kind: Sendable, Equatable {
    package var isHeld: Bool
    package var hasServer: Bool
    /// A query with a row per record, and what must be refused; `nil` for a driver without queries.
    package var query: (reading: String, writing: [String])?

    package init(isHeld: Bool, hasServer: Bool, query: (reading: String, writing: [String])? = nil) {
      (self.isHeld, self.hasServer, self.query) = (isHeld, hasServer, query)
    }

    package static func == (a: Self, b: Self) -> Bool {
      a.isHeld == b.isHeld && a.hasServer == b.hasServer && a.query?.reading == b.query?.reading
        && a.query?.writing == b.query?.writing
    }
  }

  private let contract = DriverContract<Fixture>()

  package init() {}

  /// Every promise that such a store has to keep.
  package func promises(_ kind: Kind) -> [Promise] {
    let contract = contract
    var list: [Promise] = [
      Promise("traits are told") { try await contract.traitsAreTold() },
      Promise("a capture is whole") { try await contract.captureIsWhole() },
    ]
    if kind.isHeld {
      list += [
        Promise("the digest is of the content") { try await contract.digestIsOfTheContent() },
        Promise("the cut is exact") { try await contract.cutIsExact() },
        Promise("held means held") { try await contract.heldMeansHeld() },
        Promise("a hold lapses by itself") { try await contract.holdLapsesByItself() },
        Promise("close frees") { try await contract.closeFrees() },
        Promise("cancellation frees") { try await contract.cancellationFrees() },
      ]
    }
    list += [
      Promise("the sink's errors surface") { try await contract.sinkErrorsSurface() },
      Promise("a restore beside is proved") { try await contract.restoreBesideIsProved() },
      Promise("damage is found") { try await contract.damageIsFound() },
      Promise("swap in and out") { try await contract.swapInAndOut() },
      Promise("swaps replay") { try await contract.swapReplays() },
      Promise("a lost state comes back") { try await contract.lostStateComesBack() },
      Promise("the pre-check finds no space") { try await contract.precheckFindsNoSpace() },
      Promise("the pre-check finds a read-only target") { try await contract.precheckFindsReadOnlyTarget() },
    ]
    if kind.hasServer {
      list += [
        Promise("the pre-check finds a running server") { try await contract.precheckFindsRunningServer() },
        Promise("no swap while in use") { try await contract.swapIsRefusedWhileInUse() },
      ]
    }
    if let query = kind.query {
      let (reading, writing) = query
      list.append(
        Promise("queries only read") { try await contract.queriesOnlyRead(reading: reading, writing: writing) })
    }
    return list
  }

  /// - Parameter told: Called after each promise.
  package func run(
    _ promises: [Promise], time: any Timekeeper,
    told: @Sendable (Outcome) -> Void = { _ in }
  ) async throws -> [Outcome] {
    var outcomes: [Outcome] = []
    for promise in promises {
      let began = time.monotonicNanoseconds()
      var why: String?
      do { try await promise.body() } catch {
        if Task.isCancelled { throw error }
        why = (error as? any Failure)?.report.summary ?? "\(error)"
      }
      let outcome = Outcome(
        promise: promise.name, isKept: why == nil, milliseconds: (time.monotonicNanoseconds() - began) / 1_000_000,
        why: why)
      outcomes.append(outcome)
      told(outcome)
    }
    return outcomes
  }
}
