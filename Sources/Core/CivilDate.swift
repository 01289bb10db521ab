/// A day of the proleptic Gregorian calendar.
package struct CivilDate: Hashable, Sendable {
  package var year: Int64
  /// 1 to 12.
  package var month: Int64
  /// 1 to 31.
  package var day: Int64

  package init(year: Int64, month: Int64, day: Int64) { (self.year, self.month, self.day) = (year, month, day) }

  /// Days since 1970-01-01.
  ///
  /// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", days_from_civil.
  package var days: Int64 {
    let y = month <= 2 ? year - 1 : year
    let era = (y >= 0 ? y : y - 399) / 400
    let yearOfEra = y - era * 400
    let dayOfYear = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1
    let dayOfEra = yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear
    return era * 146_097 + dayOfEra - 719_468
  }

  /// Source: the same, civil_from_days.
  package init(days: Int64) {
    let z = days + 719_468
    let era = (z >= 0 ? z : z - 146_096) / 146_097
    let dayOfEra = z - era * 146_097
    let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
    let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
    let shifted = (5 * dayOfYear + 2) / 153
    let month = shifted < 10 ? shifted + 3 : shifted - 9
    self.init(
      year: yearOfEra + era * 400 + (month <= 2 ? 1 : 0), month: month, day: dayOfYear - (153 * shifted + 2) / 5 + 1)
  }

  /// ISO 8601's week, 1 to 53, and the year that it belongs to.
  package var week: (year: Int64, number: Int64) {
    // The week belongs to the year its Thursday lies in. 1970-01-01 was a Thursday.
    let thursday = days - (days + 3).flooredDivision(by: 7).remainder + 3
    let year = CivilDate(days: thursday).year
    return (year, (thursday - CivilDate(year: year, month: 1, day: 1).days) / 7 + 1)
  }

  /// The same day of the month so many years and months ago, then so many days before that. A day that month doesn't
  /// have runs over into the next: a month before the 31st of March is the 3rd of March, or the 2nd in a leap year.
  package func before(years: Int64, months: Int64, days: Int64) -> CivilDate {
    let (carry, month) = (self.month - 1 - months).flooredDivision(by: 12)
    let first = CivilDate(year: year - years + carry, month: month + 1, day: 1)
    return CivilDate(days: first.days + day - 1 - days)
  }
}
