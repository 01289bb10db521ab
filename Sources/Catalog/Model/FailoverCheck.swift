import Core

/// One more thing an agent asks, beyond whether the engine answers: what it found is a fact with an age, and counts by
/// its weight.
package struct FailoverCheck: Sendable, Equatable, Codable {
  package var name: CheckName
  package var asks: Question
  /// What it points at when it is beyond its threshold.
  package var failure: FailureClass
  /// In thousandths; more than this is beyond the threshold.
  package var most: Int64?
  /// In thousandths; less than this is beyond the threshold.
  package var least: Int64?
  /// How long it must have been beyond it.
  package var dwell: Duration
  package var interval: Duration
  /// How old an answer may be before it is none.
  package var freshness: Duration
  /// How long an answer may take.
  package var patience: Duration
  /// 100 together are as good as an engine that is down; 0 is recorded and moves nothing.
  package var weight: Int

  package init(
    name: CheckName, asks: Question, failure: FailureClass? = nil, most: Int64? = nil, least: Int64? = nil,
    dwell: Duration = .seconds(5), interval: Duration = .seconds(1), freshness: Duration = .seconds(10),
    patience: Duration = .seconds(2), weight: Int = 0
  ) {
    (self.name, self.asks, self.failure) = (name, asks, failure ?? asks.usualFailure)
    (self.most, self.least, self.dwell, self.interval) = (most ?? asks.usualMost, least, dwell, interval)
    (self.freshness, self.patience, self.weight) = (freshness, patience, weight)
  }

  package enum Question: Sendable, Equatable, Codable {
    /// Seconds until a connection stands; none in time is a failure. `nil`: where the primary takes connections.
    case tcp(String?)
    /// Seconds until the answer; another status is a failure. `{host}` is the primary's.
    case http(String, status: Int)
    /// Seconds since the primary last had a write of its agent's acknowledged.
    case beat
    /// How far the standby that counts is behind: the least complete of those that acknowledge.
    case lagBytes
    case lagSeconds
    /// The only value of a query to a Prometheus at this address.
    case prometheus(String, query: String)
    /// Percent of the last ten seconds in which something waited; of the member's host.
    case pressure(Resource)
    /// Percent; of the file system a path lies in, on the member's host.
    case diskUsed(String)
    /// 1 or 0.
    case readOnly(String)
    /// The number a program prints; beside the member.
    case command(Command)

    /// Asked beside each member, about that member; all others are asked from everywhere, about the primary.
    package var isLocal: Bool {
      switch self {
      case .pressure, .diskUsed, .readOnly, .command: true
      default: false
      }
    }

    /// Follows from what agents tell each other; nobody is asked.
    package var isDerived: Bool {
      switch self {
      case .beat, .lagBytes, .lagSeconds: true
      default: false
      }
    }

    var usualFailure: FailureClass {
      switch self {
      case .tcp, .http, .beat, .prometheus, .pressure, .command: .overload
      case .lagBytes, .lagSeconds: .lag
      case .diskUsed, .readOnly: .disk
      }
    }

    var usualMost: Int64? {
      switch self {
      case .readOnly: 0
      default: nil
      }
    }

    /// Whether no threshold is needed: an answer that doesn't come is a failure by itself.
    var failsByItself: Bool {
      switch self {
      case .tcp, .http, .readOnly: true
      default: false
      }
    }
  }

  package enum Resource: String, Sendable, Codable, CaseIterable { case cpu, io, memory }

  private enum CodingKeys: String, CodingKey {
    case name, asks, failure, most, least, dwell, interval, freshness, patience, weight
  }

  package init(from decoder: any Decoder) throws {
    let container = try decoder.container(keyedBy: CodingKeys.self)
    self.init(
      name: try container.decode(CheckName.self, forKey: .name),
      asks: try container.decode(Question.self, forKey: .asks),
      failure: try container.decodeIfPresent(FailureClass.self, forKey: .failure),
      most: try container.decodeIfPresent(Int64.self, forKey: .most),
      least: try container.decodeIfPresent(Int64.self, forKey: .least),
      dwell: try container.decodeIfPresent(Duration.self, forKey: .dwell) ?? .seconds(5),
      interval: try container.decodeIfPresent(Duration.self, forKey: .interval) ?? .seconds(1),
      freshness: try container.decodeIfPresent(Duration.self, forKey: .freshness) ?? .seconds(10),
      patience: try container.decodeIfPresent(Duration.self, forKey: .patience) ?? .seconds(2),
      weight: try container.decodeIfPresent(Int.self, forKey: .weight) ?? 0)
  }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.container(keyedBy: CodingKeys.self)
    try container.encode(name, forKey: .name)
    try container.encode(asks, forKey: .asks)
    try container.encode(failure, forKey: .failure)
    try container.encodeIfPresent(most, forKey: .most)
    try container.encodeIfPresent(least, forKey: .least)
    try container.encode(dwell, forKey: .dwell)
    try container.encode(interval, forKey: .interval)
    try container.encode(freshness, forKey: .freshness)
    try container.encode(patience, forKey: .patience)
    try container.encode(weight, forKey: .weight)
  }
}

/// What kind of thing went wrong: what is done about it differs.
package enum FailureClass: String, Sendable, Codable, CaseIterable, CodingKeyRepresentable {
  /// The engine's process is gone, or takes no writes; its host answers.
  case process
  /// Nothing there answers.
  case host
  /// Full, or no longer writable.
  case disk
  /// Checksums that don't fit, an index that contradicts its table. A copy may have it too: never a reason to move.
  case corruption
  /// Standbys are behind.
  case lag
  /// It answers, too slowly or too seldom.
  case overload
}
