import Core

/// Who answers for something that is down, what starts that work, and what must be so before it is over.
package struct Duties: Sendable, Hashable, Codable {
  /// Somebody who is called when so much time has passed.
  package struct Call: Sendable, Hashable, Codable {
    /// From the beginning of the incident.
    package var after: Duration
    package var who: String
    /// Number, channel, rota.
    package var how: String?

    package init(after: Duration, who: String, how: String? = nil) {
      (self.after, self.who, self.how) = (after, who, how)
    }
  }

  /// Something that must be so before the work is over.
  package struct Completion: Sendable, Hashable, Codable {
    package var check: String
    /// Exit status 0 is yes; `nil`: a person looks.
    package var run: Command?

    package init(check: String, run: Command? = nil) { (self.check, self.run) = (check, run) }
  }

  /// What customers notice while it is away.
  package var impact: String?
  /// Who may say yes to what can't be taken back.
  package var approvers: [String]
  /// Whom to call, in the order of their time.
  package var escalation: [Call]
  /// What is seen when it begins.
  package var triggers: [String]
  package var completion: [Completion]

  package init(
    impact: String? = nil, approvers: [String] = [], escalation: [Call] = [], triggers: [String] = [],
    completion: [Completion] = []
  ) {
    (self.impact, self.approvers, self.triggers, self.completion) = (impact, approvers, triggers, completion)
    self.escalation = escalation.enumerated().sorted { ($0.element.after, $0.offset) < ($1.element.after, $1.offset) }
      .map(\.element)
  }

  package var isEmpty: Bool { self == Duties() }
}

/// A part of the business: services are in it by naming it as their `domain`.
package struct Domain: Sendable, Equatable, Codable {
  package var name: DomainName
  /// Whom to ask about services that name nobody.
  package var owner: String?
  /// For all its services, beside their own.
  package var duties: Duties
}

/// A part of the business.
package struct DomainName: Name {
  package let text: String
  package init(unchecked text: String) { self.text = text }
}
