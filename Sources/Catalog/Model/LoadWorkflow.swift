import Core

/// A workflow.
package struct WorkflowName: Name {
  package let text: String
  package init(unchecked text: String) { self.text = text }
}

/// What users do, in steps, at a rate: a check that services work while they are worked with.
package struct LoadWorkflow: Sendable, Hashable, Codable {
  /// What it leaves behind.
  package enum Effects: String, Sendable, Codable, CaseIterable {
    case reads
    /// Is refused on a live system without consent.
    case writes
  }

  package var name: WorkflowName
  package var description: String?
  package var effects: Effects
  /// What templates call `secret.…`; read at the moment of use.
  package var secrets: [String: SecretReference]
  /// A file of JSON objects, one on each line, that templates call `data.…`.
  package var data: String?
  /// One after the other; never empty.
  package var steps: [Step]
  package var load: Load
  package var bounds: Bounds

  package struct Step: Sendable, Hashable, Codable {
    /// Unique within the workflow.
    package var name: CheckName
    package var action: Action
    package var timeout: Duration
    /// What later steps may use: a name, and the JSON pointer to it in this step's answer; the empty pointer is all of it.
    package var captures: [String: String]
    package var expectations: [Expectation]
  }

  package enum Action: Sendable, Hashable, Codable {
    case http(Request)
    /// Its arguments are templates too; what it prints is its answer.
    case exec(Command)
  }

  /// All texts are templates; see ``TemplateText``.
  package struct Request: Sendable, Hashable, Codable {
    package enum Method: String, Sendable, Codable, CaseIterable {
      case get = "GET"
      case head = "HEAD"
      case put = "PUT"
      case post = "POST"
      case delete = "DELETE"
      case patch = "PATCH"
    }

    package var method: Method
    package var url: String
    package var headers: [String: String]
    package var body: String?
    /// Values in the body stand inside JSON's quotes, and are escaped for that.
    package var isJSON: Bool
  }

  package enum Expectation: Sendable, Hashable, Codable {
    /// Of a response; the exit status of a command.
    case status(Int)
    case header(String, Match)
    /// A place in a JSON answer.
    case value(pointer: String, Match)
    /// The whole answer.
    case text(Match)
  }

  package enum Match: Sendable, Hashable, Codable {
    /// A template.
    case equals(String)
    /// A regular expression.
    case matches(String)
  }

  /// How hard, and how long.
  package struct Load: Sendable, Hashable, Codable {
    /// `nil` is a closed loop: each user begins anew once done.
    package var rate: Rate?
    /// How many there are at most at one moment.
    package var users: Int
    /// How long it goes on after the warm-up; `nil` goes by ``iterations`` alone.
    package var duration: Duration?
    /// How often the workflow is gone through at most, warm-up included.
    package var iterations: Int?
    /// What is begun in it doesn't count.
    package var warmUp: Duration
    /// How long it takes to come to the whole rate, from nothing.
    package var ramp: Duration
  }

  /// So many in such a time, evenly.
  package struct Rate: Sendable, Hashable, Codable {
    package var count: Int
    package var per: Duration

    package init(count: Int, per: Duration) { (self.count, self.per) = (count, per) }

    package var perSecond: Double { Double(count) / per.seconds }

    /// `20/s`, `90/m`, `1000/h`; a number alone is per second.
    package init?(_ text: some StringProtocol) {
      let parts = text.split(separator: "/", omittingEmptySubsequences: false)
      guard let count = Int(parts[0]), (1...1_000_000).contains(count), parts.count <= 2 else { return nil }
      switch parts.count == 1 ? "s" : String(parts[1]) {
      case "s": self.init(count: count, per: .seconds(1))
      case "m": self.init(count: count, per: .seconds(60))
      case "h": self.init(count: count, per: .seconds(3600))
      default: return nil
      }
    }

    package var text: String {
      switch per {
      case .seconds(1): "\(count)/s"
      case .seconds(60): "\(count)/m"
      default: "\(count)/h"
      }
    }
  }

  /// What must hold of all that counted.
  package struct Bounds: Sendable, Hashable, Codable {
    /// How long going through the workflow may take, from the moment it was due: in thousandths, `950` for the 95th
    /// percentile; `1000` is the slowest.
    package var latencies: [Percentile: Duration]
    /// How many may fail, in millionths.
    package var failedPerMillion: Int

    package enum Percentile: String, Sendable, Codable, CaseIterable, CodingKeyRepresentable {
      case p50, p90, p95, p99, p999, max

      package var quantile: Double {
        switch self {
        case .p50: 0.5
        case .p90: 0.9
        case .p95: 0.95
        case .p99: 0.99
        case .p999: 0.999
        case .max: 1
        }
      }
    }
  }
}

/// A number that says whether business is as it should be, and what it may be.
package struct Metric: Sendable, Hashable, Codable {
  package var name: CheckName
  package var description: String?
  package var source: StoreQuery
  /// For people: `EUR`, `orders`.
  package var unit: String?
  /// As written; a number of any length.
  package var least: Decimal?
  package var most: Decimal?
  /// By how much it may differ from its value when the point was taken, in millionths of that.
  package var changePerMillion: Int?
  package var trend: Trend?

  /// By how much it may differ from the median of the points before.
  package struct Trend: Sendable, Hashable, Codable {
    package var points: Int
    package var changePerMillion: Int
  }

  /// A number as it is written, compared as a number.
  package struct Decimal: Sendable, Hashable, Codable {
    package var text: String
    package init?(_ text: String) {
      guard Double(text)?.isFinite == true else { return nil }
      self.text = text
    }

    package init(from decoder: any Decoder) throws {
      let text = try decoder.singleValueContainer().decode(String.self)
      guard let value = Self(text) else {
        throw DecodingError.dataCorrupted(.init(codingPath: decoder.codingPath, debugDescription: "not a number"))
      }
      self = value
    }

    package func encode(to encoder: any Encoder) throws {
      var container = encoder.singleValueContainer()
      try container.encode(text)
    }

    package var value: Double { Double(text) ?? .nan }
  }
}

/// Which versions of a store's schema a service works with.
package struct SchemaGate: Sendable, Hashable, Codable {
  /// Answers with one row of one value: the version.
  package var source: StoreQuery
  package var accepts: [String]

  package init(source: StoreQuery, accepts: [String]) { (self.source, self.accepts) = (source, accepts) }
}
