import Core

/// What is done about a class of failures, and who must say yes; the steps are in the order of what they cost.
package struct FailoverHealing: Sendable, Equatable, Codable {
  package enum Consent: String, Sendable, Codable, CaseIterable { case off, propose, auto }

  package struct Response: Sendable, Equatable, Codable {
    package var restart: Consent
    package var failover: Consent
    package var restore: Consent

    package init(restart: Consent, failover: Consent, restore: Consent) {
      (self.restart, self.failover, self.restore) = (restart, failover, restore)
    }
  }

  /// How long an engine that ended may be started again before service moves away from it.
  package var restartFirst: Duration = .zero
  /// Where it isn't as ``usual(_:)``.
  package var responses: [FailureClass: Response] = [:]

  package init() {}

  package func response(to failure: FailureClass) -> Response { responses[failure] ?? Self.usual(failure) }

  package static func usual(_ failure: FailureClass) -> Response {
    switch failure {
    case .process: Response(restart: .auto, failover: .auto, restore: .propose)
    case .host, .disk: Response(restart: .off, failover: .auto, restore: .propose)
    case .corruption: Response(restart: .off, failover: .off, restore: .propose)
    case .lag: Response(restart: .propose, failover: .off, restore: .off)
    case .overload: Response(restart: .off, failover: .propose, restore: .off)
    }
  }

  private enum CodingKeys: String, CodingKey { case restartFirst, responses }

  package init(from decoder: any Decoder) throws {
    let container = try decoder.container(keyedBy: CodingKeys.self)
    restartFirst = try container.decodeIfPresent(Duration.self, forKey: .restartFirst) ?? .zero
    responses = try container.decodeIfPresent([FailureClass: Response].self, forKey: .responses) ?? [:]
  }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.container(keyedBy: CodingKeys.self)
    try container.encode(restartFirst, forKey: .restartFirst)
    try container.encode(responses, forKey: .responses)
  }
}

/// What moves with this policy's primary: other policies, in order, each when the one before serves.
package struct FailoverGroup: Sendable, Equatable, Codable {
  package enum OnFailure: String, Sendable, Codable, CaseIterable {
    /// What moved stays, what didn't stays.
    case stop
    /// Those that moved go back, the last one first; this policy's own primary stays.
    case goBack = "go-back"
    /// The next one is tried.
    case goOn = "go-on"
  }

  package var followers: [PolicyName]
  package var onFailure: OnFailure
  /// How long each may take.
  package var patience: Duration

  package init(followers: [PolicyName], onFailure: OnFailure = .stop, patience: Duration = .seconds(60)) {
    (self.followers, self.onFailure, self.patience) = (followers, onFailure, patience)
  }

  private enum CodingKeys: String, CodingKey { case followers, onFailure, patience }

  package init(from decoder: any Decoder) throws {
    let container = try decoder.container(keyedBy: CodingKeys.self)
    followers = try container.decode([PolicyName].self, forKey: .followers)
    onFailure = try container.decodeIfPresent(OnFailure.self, forKey: .onFailure) ?? .stop
    patience = try container.decodeIfPresent(Duration.self, forKey: .patience) ?? .seconds(60)
  }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.container(keyedBy: CodingKeys.self)
    try container.encode(followers, forKey: .followers)
    try container.encode(onFailure, forKey: .onFailure)
    try container.encode(patience, forKey: .patience)
  }
}

/// What else is true while a decision is made: the release that runs, values of flags, a deployment under way.
package struct FailoverContext: Sendable, Equatable, Codable {
  /// A JSON file of strings that somebody keeps: `{"release": "2026.11.2", "deployment": "none"}`.
  package var file: String?
  package var gates: [Gate]

  /// Nothing moves by itself unless the file says one of these.
  package struct Gate: Sendable, Equatable, Codable {
    package var key: String
    package var allows: [String]

    package init(key: String, allows: [String]) { (self.key, self.allows) = (key, allows) }
  }

  package init(file: String? = nil, gates: [Gate] = []) { (self.file, self.gates) = (file, gates) }

  /// So much of the file is kept, and recorded with every decision.
  package static let limit = (entries: 64, key: 64, value: 256)
}

/// How moving service is practised, and when.
package struct FailoverPractice: Sendable, Equatable, Codable {
  package enum Kind: String, Sendable, Codable, CaseIterable {
    /// In good order.
    case switchover
    /// The primary's engine is killed.
    case failover
  }

  package var kind: Kind
  package var schedule: BackupPolicy.Schedule?
  /// How long nobody may have service.
  package var within: Duration
  /// Whether service goes back to where it was.
  package var returns: Bool

  package init(
    kind: Kind = .switchover, schedule: BackupPolicy.Schedule? = nil, within: Duration = .seconds(10),
    returns: Bool = true
  ) {
    (self.kind, self.schedule, self.within, self.returns) = (kind, schedule, within, returns)
  }

  private enum CodingKeys: String, CodingKey { case kind, schedule, within, returns }

  package init(from decoder: any Decoder) throws {
    let container = try decoder.container(keyedBy: CodingKeys.self)
    kind = try container.decodeIfPresent(Kind.self, forKey: .kind) ?? .switchover
    schedule = try container.decodeIfPresent(BackupPolicy.Schedule.self, forKey: .schedule)
    within = try container.decodeIfPresent(Duration.self, forKey: .within) ?? .seconds(10)
    returns = try container.decodeIfPresent(Bool.self, forKey: .returns) ?? true
  }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.container(keyedBy: CodingKeys.self)
    try container.encode(kind, forKey: .kind)
    try container.encodeIfPresent(schedule, forKey: .schedule)
    try container.encode(within, forKey: .within)
    try container.encode(returns, forKey: .returns)
  }
}

/// Hours of every week in which nothing is done by itself.
package struct WeeklyFreeze: Sendable, Equatable, Codable {
  /// Minutes since the week began, Monday at 00:00.
  package var from: Int
  /// Where it is before ``from``, the window goes on into the next week.
  package var until: Int
  /// Of the IANA's database; `UTC` needs none.
  package var zone: String

  package init(from: Int, until: Int, zone: String = "UTC") { (self.from, self.until, self.zone) = (from, until, zone) }

  package static let week = 7 * 24 * 60

  /// - Parameter offset: Of ``zone`` at that time, in seconds east of Greenwich.
  package func contains(_ time: Timestamp, utcOffsetSeconds offset: Int) -> Bool {
    func floor(_ value: Int64, _ divisor: Int64) -> Int64 {
      value >= 0 ? value / divisor : -((-value + divisor - 1) / divisor)
    }
    // 1970-01-01 was a Thursday.
    let minutes = floor(time.nanoseconds, 60_000_000_000) + floor(Int64(offset), 60) + 3 * 24 * 60
    let minute = Int(minutes - floor(minutes, Int64(Self.week)) * Int64(Self.week))
    return from <= until ? (from..<until).contains(minute) : minute >= from || minute < until
  }

  private static let days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]

  /// Reads `fri 16:00`.
  package static func minute(_ text: some StringProtocol) -> Int? {
    let words = text.lowercased().split(separator: " ")
    guard words.count == 2, let day = days.firstIndex(of: String(words[0].prefix(3))), words[0].count >= 3 else {
      return nil
    }
    let parts = words[1].split(separator: ":", omittingEmptySubsequences: false)
    guard parts.count == 2, parts.allSatisfy({ $0.count == 2 }), let hour = Int(parts[0]), let minute = Int(parts[1]),
      (0...24).contains(hour), (0...59).contains(minute), hour < 24 || minute == 0
    else { return nil }
    return (day * 24 * 60 + hour * 60 + minute) % week
  }

  package static func text(_ minute: Int) -> String {
    func two(_ value: Int) -> String { value < 10 ? "0\(value)" : "\(value)" }
    return "\(days[minute / 1440 % 7]) \(two(minute / 60 % 24)):\(two(minute % 60))"
  }
}
