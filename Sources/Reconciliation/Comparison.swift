import Catalog
import Core
import IO

/// What is compared, whatever it was made from: a rule of the catalog, an invariant, or a table of two histories.
package struct ComparisonPlan: Sendable {
  package var name: CheckName
  /// Indices of the key's fields on either side.
  package var leftKey: [Int]
  package var rightKey: [Int]
  /// Fields that must be the same under one key.
  package var compared: [(left: Int, right: Int)]
  /// What a key is that only one side has; `nil` if that is all right.
  package var onlyLeft: ReconciliationRule.Kind?
  package var onlyRight: ReconciliationRule.Kind?
  /// Where the wrong, or the gap, is then.
  package var onlyLeftPlace: Place
  package var onlyRightPlace: Place
  /// Sides on which a key may be once only.
  package var uniqueOn: Set<Place>
  /// Rows are counted: three here and two there are one missing.
  package var countsMatter = false
  /// The time's fields, and whose is asked first.
  package var leftTime: Int?
  package var rightTime: Int?
  package var truth: Place = .left
  package var skew: Duration = .zero

  package init(
    name: CheckName, leftKey: [Int], rightKey: [Int], compared: [(left: Int, right: Int)] = [],
    onlyLeft: ReconciliationRule.Kind?, onlyRight: ReconciliationRule.Kind?, onlyLeftPlace: Place = .right,
    onlyRightPlace: Place = .right, uniqueOn: Set<Place> = []
  ) {
    (self.name, self.leftKey, self.rightKey, self.compared) = (name, leftKey, rightKey, compared)
    (self.onlyLeft, self.onlyRight, self.uniqueOn) = (onlyLeft, onlyRight, uniqueOn)
    (self.onlyLeftPlace, self.onlyRightPlace) = (onlyLeftPlace, onlyRightPlace)
  }

  /// The plan of a rule, for answers with these columns.
  ///
  /// - Throws: ``ReconciliationError/noColumn(_:_:_:)``.
  package init(_ rule: ReconciliationRule, left: [String], right: [String]) throws(ReconciliationError) {
    func index(_ name: String, _ columns: [String], _ store: StoreName) throws(ReconciliationError) -> Int {
      guard let index = columns.firstIndex(of: name) else { throw .noColumn(rule.name, name, store) }
      return index
    }
    var keys: (left: [Int], right: [Int]) = ([], [])
    for name in rule.key {
      keys.left.append(try index(name, left, rule.left.store))
      keys.right.append(try index(name, right, rule.right.store))
    }
    var compared: [(left: Int, right: Int)] = []
    for (position, name) in left.enumerated() where !rule.key.contains(name) && name != rule.time {
      if let other = right.firstIndex(of: name) { compared.append((position, other)) }
    }
    let truth: Place = rule.truth == .right ? .right : .left
    let isLeftTrue = truth == .left
    // What only the truth has is missing at the other; what only the other has belongs to nothing.
    let onlyLeft: ReconciliationRule.Kind? =
      rule.isLink ? .brokenLink : isLeftTrue ? .missing : rule.isExact ? .orphan : nil
    let onlyRight: ReconciliationRule.Kind? =
      isLeftTrue || rule.isLink ? (rule.isExact ? .orphan : nil) : .missing
    self.init(
      name: rule.name, leftKey: keys.left, rightKey: keys.right, compared: compared, onlyLeft: onlyLeft,
      onlyRight: onlyRight, onlyLeftPlace: truth.other, onlyRightPlace: truth.other,
      uniqueOn: rule.isLink ? [.right] : [.left, .right])
    if let time = rule.time {
      (leftTime, rightTime) = (left.firstIndex(of: time), right.firstIndex(of: time))
      if leftTime == nil, rightTime == nil { throw .noColumn(rule.name, time, rule.left.store) }
    }
    (self.truth, skew) = (truth, rule.skew)
  }

  /// The plan of an invariant: its rows are its keys. `nil` for one that compares nothing.
  package init?(_ invariant: Invariant, width: Int) {
    let all = Array(0..<width)
    switch invariant.rule {
    case .references(_, _, let exact):
      self.init(
        name: invariant.name, leftKey: all, rightKey: all, onlyLeft: .brokenLink, onlyRight: exact ? .orphan : nil,
        onlyLeftPlace: .left)
    case .equal:
      self.init(
        name: invariant.name, leftKey: all, rightKey: all, onlyLeft: .missing, onlyRight: .missing,
        onlyRightPlace: .left)
      countsMatter = true
    case .constant: return nil
    }
  }
}

/// Compares two answers, row by row in the order of their keys. Every call blocks; memory is that of the sorters and of the
/// findings that are kept.
package struct Comparison: ~Copyable {
  private let plan: ComparisonPlan
  private let window: Window?
  private var left: RowSorter
  private var right: RowSorter
  private var withoutKey: Int64 = 0

  /// - Parameter scratch: An empty directory of the caller's, who removes it.
  package init(_ plan: ComparisonPlan, window: Window?, scratch: String, limitBytes: Int = 64 << 20) {
    (self.plan, self.window) = (plan, window)
    left = RowSorter(directory: "\(scratch)/left", limitBytes: limitBytes)
    right = RowSorter(directory: "\(scratch)/right", limitBytes: limitBytes)
  }

  package mutating func add(_ row: Row, to place: Place) throws(SystemFailure) {
    var key: [String] = []
    for index in place == .left ? plan.leftKey : plan.rightKey {
      guard index < row.count, let field = row[index] else {
        withoutKey += 1
        return
      }
      key.append(field)
    }
    let keyed = KeyedRow(key: key, row: row)
    if place == .left { try left.add(keyed) } else { try right.add(keyed) }
  }

  /// - Parameters:
  ///   - report: Gets the counts.
  ///   - each: Gets every finding, in the order of keys.
  package consuming func finish(
    into report: inout RuleReport, _ each: (Discrepancy) throws -> Void
  ) throws {
    let (plan, window) = (plan, window)
    (report.leftRows, report.rightRows) = (left.count, right.count)
    report.withoutKey += withoutKey
    let (a, b) = (try left.sorted(), try right.sorted())
    while true {
      let (first, second) = (a.peek(), b.peek())
      guard let key = Self.smaller(first?.key, second?.key) else { return }
      let group = Group(key: key, left: try Rows(a, key), right: try Rows(b, key))
      let found = group.discrepancies(plan)
      switch group.standing(plan, window) {
      case .outside: report.outside += 1
      case .undated: report.undated += 1
      case .atEdge: report.inFlight += Int64(found.count)
      case .inside:
        for discrepancy in found {
          report.counts[discrepancy.kind.rawValue, default: 0] += 1
          try each(discrepancy)
        }
      }
    }
  }

  private static func smaller(_ a: [String]?, _ b: [String]?) -> [String]? {
    guard let a, let b else { return a ?? b }
    return KeyedRow.isBefore(b, a) ? b : a
  }

  /// The rows one side has under a key: the first of them, and how many.
  private struct Rows {
    var rows: [Row] = []
    var count: Int64 = 0

    init(_ source: SortedRows, _ key: [String]) throws(SystemFailure) {
      while let next = source.peek(), KeyedRow.isSame(next.key, key) {
        _ = try source.next()
        count += 1
        if rows.count < Discrepancy.rowLimit { rows.append(next.row) }
      }
    }
  }

  private enum Standing { case inside, atEdge, outside, undated }

  private struct Group {
    var key: [String]
    var left: Rows
    var right: Rows

    func standing(_ plan: ComparisonPlan, _ window: Window?) -> Standing {
      guard let window else { return .inside }
      let times = [(left, plan.leftTime), (right, plan.rightTime)]
      for (rows, index) in plan.truth == .left ? times : times.reversed() {
        guard let index, let text = rows.rows.first.flatMap({ index < $0.count ? $0[index] : nil }),
          let time = rowTime(text)
        else { continue }
        switch window.standing(of: time, skew: plan.skew) {
        case .inside: return .inside
        case .atEdge: return .atEdge
        case .outside: return .outside
        }
      }
      return .undated
    }

    func discrepancies(_ plan: ComparisonPlan) -> [Discrepancy] {
      func found(_ kind: ReconciliationRule.Kind, _ place: Place) -> Discrepancy {
        Discrepancy(
          rule: plan.name, kind: kind, place: place, key: key, left: left.rows, right: right.rows,
          leftCount: left.count, rightCount: right.count)
      }
      var result: [Discrepancy] = []
      if plan.uniqueOn.contains(.left), left.count > 1 { result.append(found(.duplicate, .left)) }
      if plan.uniqueOn.contains(.right), right.count > 1 { result.append(found(.duplicate, .right)) }
      if left.count > 0, right.count == 0, let kind = plan.onlyLeft {
        result.append(found(kind, plan.onlyLeftPlace))
      } else if right.count > 0, left.count == 0, let kind = plan.onlyRight {
        result.append(found(kind, plan.onlyRightPlace))
      } else if plan.countsMatter, left.count != right.count {
        result.append(found(.missing, left.count > right.count ? .right : .left))
      } else if left.count == 1, right.count == 1, let a = left.rows.first, let b = right.rows.first {
        let isSame = plan.compared.allSatisfy { pair in isSameText(a[at: pair.left], b[at: pair.right]) }
        if !isSame { result.append(found(.changed, plan.truth.other)) }
      }
      return result
    }
  }
}

extension [String?] {
  /// NULL beyond the end: an engine may know fewer columns where there are no rows.
  subscript(at index: Int) -> String? { index < count ? self[index] : nil }
}

/// Byte by byte: to Swift two spellings of `é` are one.
func isSameText(_ a: String?, _ b: String?) -> Bool {
  guard let a, let b else { return a == nil && b == nil }
  return a.utf8.elementsEqual(b.utf8)
}

/// A time as engines print it: RFC 3339; with a blank in place of `T`; without a zone, then UTC; seconds or milliseconds since
/// 1970.
func rowTime(_ text: String) -> Timestamp? {
  if let time = Timestamp(text) { return time }
  if let number = Double(text), number.isFinite, abs(number) < 9e15 {
    let seconds = abs(number) >= 1e14 ? number / 1e6 : abs(number) >= 1e11 ? number / 1e3 : number
    return abs(seconds) < 9e9 ? Timestamp(nanoseconds: Int64(seconds * 1e9)) : nil
  }
  guard text.utf8.count >= 19, text.utf8.count <= 40 else { return nil }
  var characters = Array(text)
  if characters[10] == " " { characters[10] = "T" }
  var spelled = String(characters)
  let zone = characters[19...].lastIndex { $0 == "+" || $0 == "-" }
  if let zone {
    // `+00`, as PostgreSQL writes whole hours.
    if characters.count - zone == 3 { spelled += ":00" }
  } else if !spelled.hasSuffix("Z") {
    spelled += "Z"
  }
  return Timestamp(spelled)
}

/// Why stores can't be compared, or corrected.
package enum ReconciliationError: Failure {
  case noColumn(CheckName, String, StoreName)
  case columns(CheckName, left: Int, right: Int)
  case truncated(StoreName, rows: Int)
  case noSuchRule(String)
  case nothingToCompare
  case noSuchReport(String)
  case ambiguous(String)
  case otherDigest(String)
  case notProposed(String)
  case notLive(String)
  case damaged(String)
  case targetHolds(String)
  case atWork(String)
  case unfinished(String, Report)
  case noHistory(StoreName, String)

  package var report: Report {
    switch self {
    case .noColumn(let rule, let column, let store):
      Report("RECON-101", "rule \(rule): the answer of \(store) has no column '\(column)'")
        .remedy("name the columns as the query does, or give 'columns'")
    case .columns(let rule, let left, let right):
      Report("RECON-102", "rule \(rule): rows with \(left) and with \(right) columns can't be compared")
        .remedy("let both queries answer with the same columns")
    case .truncated(let store, let rows):
      Report("RECON-103", "the answer of \(store) has more than \(rows) rows").remedy(
        "ask for less, by a window or a part")
    case .noSuchRule(let name):
      Report("RECON-104", "there is no rule '\(name)' to reconcile by").remedy(
        "`salvor graph` lists what the catalog has")
    case .nothingToCompare:
      Report("RECON-105", "the catalog has nothing to reconcile by")
        .remedy("add a document of kind Reconciliation, or an invariant with 'references' or 'equal'")
    case .noSuchReport(let id):
      Report("RECON-201", "there is no report '\(id)'").remedy("`salvor reconcile list` lists them")
    case .ambiguous(let id):
      Report("RECON-202", "'\(id)' is the beginning of several reports").remedy("give more of it")
    case .otherDigest(let given):
      Report("RECON-203", "what was reviewed is not what was proposed: its digest is not \(given)")
        .state("nothing was changed").remedy("propose again, review, and give the digest the manifest has")
    case .notProposed(let id):
      Report("RECON-204", "nothing was proposed for report \(id)").state("nothing was changed")
        .remedy("run `salvor reconcile propose \(id)` and review what it writes")
    case .notLive(let source):
      Report("RECON-205", "the report is about \(source), not about what is live").state("nothing was changed")
        .remedy("compare what is live, and correct by that")
    case .damaged(let what):
      Report("RECON-206", "the report can't be read: \(what)").remedy("compare again")
    case .targetHolds(let path):
      Report("RECON-207", "\(path) is there already").remedy("name a directory that is not")
    case .atWork(let id):
      Report("RECON-208", "corrections of \(id) are being made by another process", retry: .afterBackoff)
        .state("this one changed nothing").remedy("wait for it; what it made is not made twice")
    case .unfinished(let id, let why):
      Report("RECON-301", "not every correction of \(id) was tried: \(why.summary)", retry: .afterBackoff)
        .state("what was corrected is on record; nothing is half done")
        .remedy("apply it again with the same digest: what was done is not done twice")
    case .noHistory(let store, let why):
      Report("RECON-106", "the histories of \(store) can't be compared: \(why)")
        .remedy("see docs/operating/reconcile.md for what each engine can do")
    }
  }
}
