import Core

/// A database, a keyspace, a tree of files: state that is captured and brought back as one piece.
package struct DataStore: Sendable, Equatable, Codable {
  /// Unique in the catalog.
  package var name: StoreName
  /// The service that owns it.
  package var service: ServiceName
  package var driver: DriverName
  /// The driver's own, checked against its schema.
  package var options: [String: JSONValue]
  /// Stores that must serve before this one is started; sorted.
  package var dependsOn: [StoreName]
  /// Where its backups go.
  package var repository: RepositoryName
  /// Instead of the driver's own way to start and stop the server.
  package var start: Command?
  package var stop: Command?
}

/// A place backups go, and how it is opened.
package struct Repository: Sendable, Equatable, Codable {
  package var name: RepositoryName
  package var location: Location
  package var password: SecretReference
  /// What the place itself asks for, by the variables that would hold it; `nil` where the process's own count.
  package var credentials: [String: SecretReference]?

  /// Variables that may be said for one repository alone.
  package static let credentialNames = [
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "RCLONE_CONFIG_PASS", "RESTIC_REST_PASSWORD",
    "RESTIC_REST_USERNAME",
  ]
  /// Copies that are kept the same; `nil` where there are none.
  package var mirrors: [Location]?

  package enum Location: Sendable, Hashable, CustomStringConvertible {
    /// A directory of this machine; absolute, without `.` and `..`.
    case local(path: String)
    /// On a network; the address as its kind writes it, without a password.
    case remote(scheme: String, address: String)

    package static let remoteSchemes = ["rclone", "rest", "s3"]

    package var description: String {
      switch self {
      case .local(let path): "local:\(path)"
      case .remote(let scheme, let address): "\(scheme):\(address)"
      }
    }
  }
}

extension Repository.Location: Codable {
  package init(from decoder: any Decoder) throws {
    let text = try decoder.singleValueContainer().decode(String.self)
    guard let value = Repository.Location(text) else {
      throw DecodingError.dataCorrupted(
        .init(codingPath: decoder.codingPath, debugDescription: "not a repository location: \(text)"))
    }
    self = value
  }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(description)
  }

  /// Parses `local:/srv/backup`, `/srv/backup`, `rest:https://host:8000/path/`, `s3:bucket/prefix` or
  /// `rclone:remote:path`.
  ///
  /// - Returns: `nil` also for an address that holds a password: a catalog is no place for one.
  package init?(_ text: some StringProtocol) {
    if let scheme = Self.remoteSchemes.first(where: { text.hasPrefix("\($0):") }) {
      let address = String(text.dropFirst(scheme.count + 1))
      guard !address.isEmpty, !address.contains("@"),
        address.unicodeScalars.allSatisfy({ $0.value > 32 && $0.value != 127 })
      else { return nil }
      if scheme == "rest", !address.hasPrefix("http://"), !address.hasPrefix("https://") { return nil }
      // `:kind,option=value:path` may hold anything; what has a name is written in rclone's own configuration.
      if scheme == "rclone", address.hasPrefix("-") || address.contains(",") { return nil }
      self = .remote(scheme: scheme, address: address)
      return
    }
    let path = text.hasPrefix("local:") ? String(text.dropFirst(6)) : String(text)
    guard let normal = AbsolutePath.normalized(path) else { return nil }
    self = .local(path: normal)
  }
}

/// Stores whose writers are held, marked and released together.
package struct ConsistencyGroup: Sendable, Equatable, Codable {
  package var name: GroupName
  /// Sorted; never empty.
  package var stores: [StoreName]
  /// How long writers may wait at most.
  package var holdBudget: Duration
  package var onOverBudget: OverBudget
  /// Nobody wrote it down: it holds every store, because the catalog declares no group at all.
  package var isImplicit: Bool

  /// What becomes of a point whose hold took longer than its budget.
  package enum OverBudget: String, Sendable, Codable, CaseIterable {
    /// No point is recorded.
    case fail
    /// The point is recorded, and says that it is not consistent.
    case record
  }
}

/// What is backed up when, and kept for how long.
package struct BackupPolicy: Sendable, Equatable, Codable {
  package var name: PolicyName
  package var repository: RepositoryName
  /// `nil`: only when somebody asks.
  package var schedule: Schedule?
  package var retention: Retention
  /// The stores it is about, from its selector; sorted, never empty.
  package var stores: [StoreName]
  /// Takes the place of the groups' own budget for points this policy takes.
  package var holdBudget: Duration?

  package enum Schedule: Sendable, Hashable {
    case every(Duration)
    /// Five fields: minute, hour, day of month, month, day of week; in UTC.
    case cron(String)
  }

  /// How many points are kept of each kind, as in restic's `forget`; all zero keeps every point.
  package struct Retention: Sendable, Hashable, Codable {
    package var keepLast: Int
    package var keepHourly: Int
    package var keepDaily: Int
    package var keepWeekly: Int
    package var keepMonthly: Int
    package var keepYearly: Int
    /// Every point younger than this is kept.
    package var keepWithin: Duration?

    package init(
      keepLast: Int = 0, keepHourly: Int = 0, keepDaily: Int = 0, keepWeekly: Int = 0, keepMonthly: Int = 0,
      keepYearly: Int = 0, keepWithin: Duration? = nil
    ) {
      (self.keepLast, self.keepHourly, self.keepDaily) = (keepLast, keepHourly, keepDaily)
      (self.keepWeekly, self.keepMonthly, self.keepYearly) = (keepWeekly, keepMonthly, keepYearly)
      self.keepWithin = keepWithin
    }

    package var keepsEverything: Bool { self == Retention() }
  }
}

extension BackupPolicy.Schedule: Codable, CustomStringConvertible {
  package var description: String {
    switch self {
    case .every(let period): "every \(period.exactText)"
    case .cron(let fields): fields
    }
  }

  package init(from decoder: any Decoder) throws {
    let text = try decoder.singleValueContainer().decode(String.self)
    guard let value = BackupPolicy.Schedule(text) else {
      throw DecodingError.dataCorrupted(
        .init(codingPath: decoder.codingPath, debugDescription: "not a schedule: \(text)"))
    }
    self = value
  }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(description)
  }
}

/// A rule over one or several stores that holds in every consistent point.
package struct Invariant: Sendable, Equatable, Codable {
  package var name: CheckName
  package var description: String?
  package var severity: Severity
  package var rule: Rule

  package enum Severity: String, Sendable, Codable, CaseIterable {
    /// A violation fails the restore.
    case error
    /// A violation is reported.
    case warning
  }

  package enum Rule: Sendable, Hashable, Codable {
    /// Every row of `from` is among the rows of `to`; one that isn't is a broken link. With `exact`, a row only in
    /// `to` is an orphan, and counts too.
    case references(from: StoreQuery, to: StoreQuery, exact: Bool)
    /// Both give the same rows, in whatever order.
    case equal(left: StoreQuery, right: StoreQuery)
    /// One row with one value, whose text is `equals`.
    case constant(StoreQuery, equals: String)
  }

  /// The stores it asks; sorted, each once.
  package var stores: [StoreName] {
    switch rule {
    case .references(let a, let b, _), .equal(let a, let b):
      a.store == b.store ? [a.store] : [a.store, b.store].sorted()
    case .constant(let query, _): [query.store]
    }
  }
}

/// A read-only query, and whom it is put to.
package struct StoreQuery: Sendable, Hashable, Codable {
  package var store: StoreName
  package var query: String

  package init(store: StoreName, query: String) { (self.store, self.query) = (store, query) }
}
