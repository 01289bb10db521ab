import Core
import DriverKit
import Redaction
import Synthetic
import Testing

@Suite struct SyntheticTests {
  private let people = TableShape(
    "people",
    [
      .init("id", "integer", isNullable: false), .init("name", "text", isNullable: false), .init("card", "text"),
      .init("born", "date"),
      .init("plan", "text"), .init("paid", "numeric"), .init("mail", "text"),
    ], keys: [["id"], ["mail"]])
  private let orders = TableShape(
    "public.orders", [.init("person", "integer", isNullable: false), .init("number", "integer", isNullable: false)],
    keys: [["number"]],
    references: [])
  private let pairs = TableShape(
    "pairs", [.init("a", "integer", isNullable: false), .init("b", "integer", isNullable: false)], keys: [["a", "b"]],
    references: [.init(["a"], to: "people", ["id"]), .init(["b"], to: "people", ["id"])])

  /// 500 people, each with a name, a card and an address of his own.
  private func learned() throws -> (SyntheticProfile, [String]) {
    let chance = SeededRandomness(seed: 3)
    var values: [String] = []
    var (first, second, third) = (
      TableLearner(people, isPublic: ["plan"]), TableLearner(orders, isPublic: []), TableLearner(pairs, isPublic: [])
    )
    for number in 0..<500 {
      let name = "Person \(number) " + String(repeating: "x", count: chance.below(20)) + "quill"
      let card = "49291234\(10_000_000 + chance.below(80_000_000))"
      values += [name, card, "person\(number)@quillfeather.test"]
      first.take([
        .integer(Int64(1_000_000 + number * 7)), .text(name), number % 4 == 0 ? .null : .text(card),
        .text("19\(50 + chance.below(40))-05-06"),
        .text(number % 10 == 0 ? "gold" : "free"), .real(Double(chance.below(100_000)) / 100),
        .text("person\(number)@quillfeather.test"),
      ])
      second.take([.integer(Int64(1_000_000 + number * 7)), .integer(Int64(number))])
      if number < 100 { third.take([.integer(Int64(1_000_000 + number * 7)), .integer(1_000_000)]) }
    }
    let profile = SyntheticProfile(
      stores: [
        "ledger": .init(driver: "sqlite", tables: [first.profile, third.profile]),
        "shop": .init(driver: "postgresql", tables: [second.profile]),
      ], links: [.init("shop", "public.orders", "person", to: "ledger", "people", "id")])
    return (profile, values)
  }

  private func made(_ seed: UInt64 = 1, scale: Double = 1) throws -> [String: [[RowValue]]] {
    let made = try Synthesizer(try learned().0, seed: seed, scale: scale).make()
    return Dictionary(uniqueKeysWithValues: made.map { ($0.table.name, $0.rows) })
  }

  @Test func `a profile holds no value, but of what was called public`() throws {
    let (profile, values) = try learned()
    let text = try CanonicalJSON.text(profile)
    #expect(SecretScan(values).hits(in: Array(text.utf8)).isEmpty)
    #expect(text.contains("gold") && !text.contains("quill"))
    #expect(try CanonicalJSON.decode(SyntheticProfile.self, from: Array(text.utf8)) == profile)
  }

  @Test func `no real value is made, and the same seed makes the same`() throws {
    let made = try Synthesizer(try learned().0, seed: 1, scale: 2).make()
    let text = made.map {
      LoadText.lines($0.table, $0.rows) + LoadText.insert($0.table, $0.rows) + LoadText.copy($0.table, $0.rows)
    }.joined()
    #expect(SecretScan(try learned().1).hits(in: Array(text.utf8)).isEmpty)
    #expect(try self.made(7) == self.made(7))
    #expect(try self.made(7)["people"] != self.made(8)["people"])
  }

  @Test func `keys are unique, and references lead somewhere, across stores too`() throws {
    let made = try made(5, scale: 3)
    let people = try #require(made["people"])
    #expect(people.count == 1500 && Set(people.map { $0[0] }).count == 1500 && Set(people.map { $0[6] }).count == 1500)
    let ids = Set(people.map { $0[0] })
    #expect(made["public.orders"]?.allSatisfy { ids.contains($0[0]) } == true)
    let pairs = try #require(made["pairs"])
    #expect(Set(pairs).count == pairs.count && pairs.allSatisfy { ids.contains($0[0]) && ids.contains($0[1]) })
  }

  @Test func `a key of several columns that refer to nothing is unique`() throws {
    let shape = TableShape(
      "parts", [.init("day", "date", isNullable: false), .init("who", "integer", isNullable: false)],
      keys: [["day", "who"]])
    var learner = TableLearner(shape, isPublic: [])
    for number in 0..<50 { learner.take([.text("2026-05-05"), .integer(Int64(number % 3))]) }
    let profile = SyntheticProfile(stores: ["ledger": .init(driver: "sqlite", tables: [learner.profile])])
    let rows = try #require(try Synthesizer(profile, seed: 1, scale: 2).make().first?.rows)
    #expect(rows.count == 100 && Set(rows).count == 100)
  }

  @Test func `shares, lengths and looks are near to what was learned`() throws {
    let people = try #require(try made(5, scale: 4)["people"])
    let share = Double(people.count { $0[2] == .null }) / Double(people.count)
    #expect(abs(share - 0.25) < 0.05, "\(share)")
    for row in people {
      if case .text(let card) = row[2] { #expect(card.count == 16 && card.allSatisfy(\.isNumber)) }
      guard case .text(let born) = row[3] else { continue }
      #expect(born.count == 10 && born > "1949" && born < "1992", "\(born)")
    }
    let lengths = people.compactMap { row -> Int? in if case .text(let name) = row[1] { name.count } else { nil } }
      .sorted()
    #expect(abs(lengths[lengths.count / 2] - 25) < 5, "\(lengths[lengths.count / 2])")
    let gold = Double(people.count { $0[4] == .text("gold") }) / Double(people.count)
    #expect(abs(gold - 0.1) < 0.04, "\(gold)")
    let paid = people.compactMap { row -> Double? in if case .real(let paid) = row[5] { paid } else { nil } }
    #expect(abs(paid.reduce(0, +) / Double(paid.count) - 500) < 60)
  }

  @Test func `what can't be made is refused`() throws {
    var (profile, _) = try learned()
    profile.links.append(.init("ledger", "people", "id", to: "shop", "public.orders", "person"))
    #expect(throws: SyntheticError.self) { try Synthesizer(profile, seed: 1, scale: 1).make() }
    profile.format = "other"
    #expect(throws: SyntheticError.self) { try Synthesizer(profile, seed: 1, scale: 1) }
  }
}
