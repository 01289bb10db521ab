import Catalog
import Core

/// Everything a plan is computed from; the same input gives the same plan, byte for byte.
package struct PlanInput: Sendable {
  package var catalog: Catalog
  /// The services to bring back; empty means all.
  package var services: Set<ServiceName>
  package var point: PointFacts
  /// What earlier runs took, in any order.
  package var history: [Measurement]
  package var limits: PlanLimits
  /// Go on though an invariant joins a store that is brought back to one that stays as it is.
  package var allowsBrokenLinks: Bool
  /// Of what steps took, from 0 to 1: the half is what is likely, 0.95 what can be promised.
  package var quantile = 0.5

  package init(
    catalog: Catalog, services: Set<ServiceName> = [], point: PointFacts, history: [Measurement] = [],
    limits: PlanLimits = PlanLimits(), allowsBrokenLinks: Bool = false
  ) {
    (self.catalog, self.services, self.point) = (catalog, services, point)
    (self.history, self.limits, self.allowsBrokenLinks) = (history, limits, allowsBrokenLinks)
  }
}

/// What one recovery point is known to hold.
package struct PointFacts: Sendable, Equatable, Codable {
  /// How its stores were brought to one moment.
  package enum Mode: String, Sendable, Codable, CaseIterable {
    /// All writers were held at once.
    case barrier
    /// Each store stands at the same time by its own clock.
    case timeAligned = "time-aligned"
    /// Each store stands wherever its capture began.
    case fuzzy
  }

  package var id: String
  /// The moment of the mark.
  package var time: Timestamp
  package var mode: Mode
  /// Somebody read all of it back and found it whole.
  package var isVerified: Bool
  package var stores: [StoreName: StoreFacts]

  package init(
    id: String, time: Timestamp, mode: Mode = .barrier, isVerified: Bool = true, stores: [StoreName: StoreFacts]
  ) {
    (self.id, self.time, self.mode, self.isVerified, self.stores) = (id, time, mode, isVerified, stores)
  }
}

/// One store in one point.
package struct StoreFacts: Sendable, Equatable, Codable {
  package enum State: Sendable, Equatable, Codable {
    /// In the cut.
    case held
    /// Captured, but not at the moment of the mark; why.
    case outside(String)
    case missing
    /// Captured, and found damaged; how.
    case corrupt(String)
    /// Marked, and no copy and log lead there; why.
    case unreachable(String)
  }

  package var state: State
  /// As restored, before compression.
  package var sizeBytes: Int64?
  /// Of the engine it was captured from.
  package var version: String?

  package init(_ state: State, sizeBytes: Int64? = nil, version: String? = nil) {
    (self.state, self.sizeBytes, self.version) = (state, sizeBytes, version)
  }
}

/// How long a step took when it last succeeded.
package struct Measurement: Sendable, Equatable, Codable {
  package var action: RestoreAction
  package var store: StoreName?
  package var service: ServiceName?
  /// What was moved, where that is what the time went to.
  package var bytes: Int64?
  package var seconds: Double
  package var at: Timestamp

  package init(
    _ action: RestoreAction, store: StoreName? = nil, service: ServiceName? = nil, bytes: Int64? = nil,
    seconds: Double, at: Timestamp
  ) {
    (self.action, self.store, self.service) = (action, store, service)
    (self.bytes, self.seconds, self.at) = (bytes, seconds, at)
  }
}

/// What a restore may use.
package struct PlanLimits: Sendable, Equatable, Codable {
  /// Stores restored or validated beside at the same time; at least 1.
  package var parallelCopies: Int
  /// Shared by all copies; `nil` for no limit.
  package var bandwidthBytesPerSecond: Int64?

  package init(parallelCopies: Int = 4, bandwidthBytesPerSecond: Int64? = nil) {
    self.parallelCopies = max(1, parallelCopies)
    self.bandwidthBytesPerSecond = bandwidthBytesPerSecond.map { max(1, $0) }
  }
}
