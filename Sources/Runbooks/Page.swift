import Core

/// A runbook as it is written down: sections of blocks, whatever the format.
package struct Page: Sendable, Equatable {
  package var title: String
  package var sections: [Section]
  package var footer: [Phrase]

  package init(title: String, sections: [Section], footer: [Phrase]) {
    (self.title, self.sections, self.footer) = (title, sections, footer)
  }

  package var steps: [Step] { sections.flatMap(\.steps) }
}

package struct Section: Sendable, Equatable {
  /// The anchor, and the name of the notes in it.
  package var id: String
  package var title: String
  package var blocks: [Block]

  package init(_ id: String, _ title: String, _ blocks: [Block]) {
    (self.id, self.title, self.blocks) = (id, title, blocks)
  }

  package var steps: [Step] {
    blocks.compactMap { block in
      if case .step(let step) = block { step } else { nil }
    }
  }
}

package enum Block: Sendable, Equatable {
  case text(Phrase)
  case bullets([Phrase])
  case table([Phrase], [[Phrase]])
  case heading(String)
  /// Something to be linked to.
  case anchor(String)
  case step(Step)
  case drawing(Drawing)
}

/// Something to be done, and what then.
package struct Step: Sendable, Equatable {
  /// What comes of it; the first that fits counts.
  package struct Outcome: Sendable, Equatable {
    package enum Condition: Sendable, Equatable {
      /// One of these exit statuses, and all of these on either channel.
      case status([Int], prints: [String])
      /// Whatever else the exit status is.
      case otherStatus
      /// Something a person knows.
      case situation(Phrase)
    }

    package var condition: Condition
    /// What is to be done before going on, if anything.
    package var advice: Phrase?
    /// A step's id; ``Step/end``.
    package var target: String

    package init(_ condition: Condition, _ advice: Phrase? = nil, to target: String) {
      (self.condition, self.advice, self.target) = (condition, advice, target)
    }
  }

  /// Where nothing is left to be done.
  package static let end = "end"

  /// Such as `r1`.
  package var id: String
  package var title: String
  package var text: [Phrase]
  package var who: Phrase?
  package var approver: Phrase?
  package var time: Phrase?
  /// Variables the reader has to set, and what to.
  package var needs: [(name: String, meaning: Phrase)]
  /// To be typed as it stands.
  package var command: String?
  package var outcomes: [Outcome]

  package init(_ id: String, _ title: String, _ text: [Phrase] = [], command: String? = nil, outcomes: [Outcome] = []) {
    (self.id, self.title, self.text, self.command, self.outcomes) = (id, title, text, command, outcomes)
    needs = []
  }

  package var isDecision: Bool { Set(outcomes.map(\.target)).count > 1 }

  /// As it is referred to.
  package var label: String { "\(id.uppercased()). \(title)" }

  package static func == (a: Step, b: Step) -> Bool {
    a.id == b.id && a.title == b.title && a.text == b.text && a.who == b.who && a.approver == b.approver
      && a.time == b.time && a.command == b.command && a.outcomes == b.outcomes
      && a.needs.elementsEqual(b.needs) { $0.name == $1.name && $0.meaning == $1.meaning }
  }
}

extension Step.Outcome.Condition {
  /// As it is read, and as it is followed.
  package var phrase: Phrase {
    switch self {
    case .status(let statuses, let prints):
      let list = statuses.map { Phrase([.code("\($0)")]) }.joined(separator: " or ")
      let texts = prints.map { Phrase([.plain("prints "), .code($0)]) }
      return texts.reduce("exit status " + list) { $0 + ", " + $1 }
    case .otherStatus: return "any other exit status"
    case .situation(let phrase): return phrase
    }
  }
}
