import Core

/// How much a service matters; also the order in which equals are brought back.
package enum Tier: String, Sendable, Codable, CaseIterable, Comparable {
  case critical, high, normal, low

  /// 0 for the most important.
  package var rank: Int {
    switch self {
    case .critical: 0
    case .high: 1
    case .normal: 2
    case .low: 3
    }
  }

  /// `critical` is the greatest.
  package static func < (a: Tier, b: Tier) -> Bool { a.rank > b.rank }
}

/// What the owner accepts to lose and to wait.
package struct Objectives: Sendable, Hashable, Codable {
  /// Recovery point objective: how much work may be lost, as time.
  package var rpo: Duration?
  /// Recovery time objective: from the start of a restore until the service's validators have passed.
  package var rto: Duration?

  package init(rpo: Duration? = nil, rto: Duration? = nil) { (self.rpo, self.rto) = (rpo, rto) }

  package var isEmpty: Bool { rpo == nil && rto == nil }
}

/// Something that runs, with the state it owns.
package struct Service: Sendable, Equatable, Codable {
  package var name: ServiceName
  package var labels: [String: String]
  package var owner: String?
  package var tier: Tier
  /// The business domain that numbers are summed up by.
  package var domain: String?
  package var objectives: Objectives
  /// Services that must be ready before this one is started; sorted.
  package var dependsOn: [ServiceName]
  /// Its own stores; sorted.
  package var stores: [StoreName]
  /// `nil`: somebody else starts it; Salvor only waits until it is ready.
  package var start: Command?
  package var stop: Command?
  /// All must pass before whoever depends on this service is started.
  package var ready: [Probe]
  /// Run once it is ready; all must pass for the service to count as restored.
  package var validators: [Validator]
  /// What versions of its stores' schemas it works with; `nil` where nobody said.
  package var schema: [SchemaGate]?
  /// Its own; those of its domain come beside. `nil`: nothing was said.
  package var duties: Duties?
}

/// A program and its arguments, run without a shell.
package struct Command: Sendable, Hashable, Codable {
  /// The program first. Never empty.
  package var words: [String]
  package var environment: [String: EnvironmentValue]
  package var workingDirectory: String?
  package var user: String?
  package var timeout: Duration

  package init(
    _ words: [String], environment: [String: EnvironmentValue] = [:], workingDirectory: String? = nil,
    user: String? = nil, timeout: Duration = .seconds(60)
  ) {
    (self.words, self.environment, self.workingDirectory) = (words, environment, workingDirectory)
    (self.user, self.timeout) = (user, timeout)
  }
}

/// What a variable in a command's environment is set to.
package enum EnvironmentValue: Sendable, Hashable, Codable {
  case text(String)
  case secret(SecretReference)

  private enum CodingKeys: String, CodingKey { case text, secret }

  package init(from decoder: any Decoder) throws {
    let container = try decoder.container(keyedBy: CodingKeys.self)
    if let reference = try container.decodeIfPresent(SecretReference.self, forKey: .secret) {
      self = .secret(reference)
    } else {
      self = .text(try container.decode(String.self, forKey: .text))
    }
  }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.container(keyedBy: CodingKeys.self)
    switch self {
    case .text(let value): try container.encode(value, forKey: .text)
    case .secret(let reference): try container.encode(reference, forKey: .secret)
    }
  }
}

/// A question asked again and again until the answer is yes.
package struct Probe: Sendable, Hashable, Codable {
  package var question: Question
  /// How long one try may take.
  package var timeout: Duration
  /// The pause between two tries.
  package var interval: Duration
  /// Tries after the first.
  package var retries: Int

  package init(
    _ question: Question, timeout: Duration = .seconds(5), interval: Duration = .milliseconds(500), retries: Int = 60
  ) {
    (self.question, self.timeout, self.interval, self.retries) = (question, timeout, interval, retries)
  }

  package enum Question: Sendable, Hashable, Codable {
    /// Exit status 0 is yes.
    case exec(Command)
    /// A connection that is accepted is yes.
    case tcp(host: String, port: UInt16)
    /// A GET answered with `status` is yes.
    case http(url: String, status: Int)
    /// A query that runs, whatever it returns, is yes.
    case sql(store: StoreName, query: String)
  }
}

/// A check of one service that must pass before it counts as restored.
package struct Validator: Sendable, Hashable, Codable {
  /// Unique within its service.
  package var name: CheckName
  package var question: Question
  package var expectation: Expectation
  package var timeout: Duration

  package init(
    name: CheckName, question: Question, expectation: Expectation, timeout: Duration = .seconds(60)
  ) {
    (self.name, self.question, self.expectation, self.timeout) = (name, question, expectation, timeout)
  }

  package enum Question: Sendable, Hashable, Codable {
    case sql(store: StoreName, query: String)
    case exec(Command)
    case http(url: String)
    /// Passes if all that the workflow expects holds; its expectation says nothing more.
    case workflow(WorkflowName)
  }

  package enum Expectation: Sendable, Hashable, Codable {
    /// One row with one value, whose text is this; of a command or a page: the output without blanks at its ends.
    case equals(String)
    /// This many rows.
    case rows(Int)
    /// No row, no output.
    case empty
    /// The exit status of a command, the status of a response.
    case status(Int)
    /// A regular expression that is found somewhere in the output.
    case matches(String)
  }
}
