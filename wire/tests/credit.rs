//! The credit ledgers against a model of two lists: what was granted, what was spent, what came back, each summed anew at every
//! question, in numbers that cannot overflow.

use proptest::prelude::*;
use tiderace_wire::credit::{Amount, Granter, Spender};
use tiderace_wire::error::ErrorCode;

#[derive(Clone, Debug)]
enum Move {
    Spend(Amount),
    GiveBack(prop::sample::Index),
    Grant,
    GrantAll,
    Window(Amount),
    Hear(Amount),
    TakeBack(prop::sample::Index),
}

/// Small amounts mostly, and now and then some that end every number.
fn amount() -> impl Strategy<Value = Amount> {
    let number = prop_oneof![12 => 0_u64..600, 1 => Just(u64::MAX), 1 => u64::MAX / 2..u64::MAX];
    let count = prop_oneof![12 => 0_u64..6, 1 => Just(u64::MAX)];
    (number, count).prop_map(|(bytes, batches)| Amount { bytes, batches })
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        6 => amount().prop_map(Move::Spend),
        4 => any::<prop::sample::Index>().prop_map(Move::GiveBack),
        3 => Just(Move::Grant),
        2 => Just(Move::GrantAll),
        1 => amount().prop_map(Move::Window),
        3 => amount().prop_map(Move::Hear),
        1 => any::<prop::sample::Index>().prop_map(Move::TakeBack),
    ];
    prop::collection::vec(one, 0..120)
}

fn wide(amount: Amount) -> [u128; 2] {
    [u128::from(amount.bytes), u128::from(amount.batches)]
}

fn sum(amounts: &[Amount]) -> [u128; 2] {
    let add = |sum: [u128; 2], amount: &Amount| {
        let [bytes, batches] = wide(*amount);
        [sum[0] + bytes, sum[1] + batches]
    };
    amounts.iter().fold([0; 2], add)
}

fn covers(all: [u128; 2], part: [u128; 2]) -> bool {
    all[0] >= part[0] && all[1] >= part[1]
}

fn plus(a: [u128; 2], b: [u128; 2]) -> [u128; 2] {
    [a[0] + b[0], a[1] + b[1]]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    // P-40, P-41
    #[test]
    fn whoever_grants_is_never_overspent_and_grants_what_came_back(first in amount(), moves in moves()) {
        let mut granter = Granter::new(first);
        let mut window = wide(first);
        let mut granted = window;
        let mut spent: Vec<Amount> = Vec::new();
        let mut held: Vec<Amount> = Vec::new();
        for step in moves {
            let returned = |held: &[Amount], spent: &[Amount]| {
                let (spent, held) = (sum(spent), sum(held));
                [spent[0] - held[0], spent[1] - held[1]]
            };
            match step {
                Move::Spend(amount) => {
                    let fits = covers(granted, plus(sum(&spent), wide(amount)));
                    let expected = if fits { Ok(()) } else { Err(ErrorCode::NoCredit) };
                    prop_assert_eq!(granter.spend(amount), expected);
                    if fits {
                        spent.push(amount);
                        held.push(amount);
                    }
                }
                Move::GiveBack(which) if !held.is_empty() => {
                    granter.give_back(held.swap_remove(which.index(held.len())));
                }
                Move::Grant | Move::GrantAll => {
                    let all = matches!(step, Move::GrantAll);
                    let back = returned(&held, &spent);
                    let most = plus(back, window);
                    let total = if all { granter.grant_all() } else { granter.grant() };
                    // What no number can say is not granted, and what was granted is never taken back.
                    let sayable = most.iter().all(|number| *number <= u128::from(u64::MAX));
                    let next = [most[0].max(granted[0]), most[1].max(granted[1])];
                    let step = [next[0] - granted[0], next[1] - granted[1]];
                    let is_worth_it = (0..2).any(|unit| 2 * step[unit] >= window[unit].max(1));
                    let expected = sayable && if all { step != [0; 2] } else { is_worth_it };
                    prop_assert_eq!(total.map(wide), expected.then_some(next));
                    granted = total.map_or(granted, wide);
                }
                Move::Window(amount) => {
                    granter.set_window(amount);
                    window = wide(amount);
                }
                Move::GiveBack(_) | Move::Hear(_) | Move::TakeBack(_) => {}
            }
            prop_assert_eq!(wide(granter.granted()), granted);
            prop_assert_eq!(wide(granter.spent()), sum(&spent));
            prop_assert_eq!(wide(granter.outstanding()), sum(&held));
            prop_assert!(covers(granted, sum(&spent)));
        }
    }

    // P-40, P-41
    #[test]
    fn whoever_spends_has_what_it_last_heard_and_never_less(first in amount(), moves in moves()) {
        let mut spender = Spender::new(first);
        let mut granted = wide(first);
        let mut spent: Vec<Amount> = Vec::new();
        for step in moves {
            match step {
                Move::Spend(amount) => {
                    let fits = covers(granted, plus(sum(&spent), wide(amount)));
                    prop_assert_eq!(spender.try_spend(amount), fits);
                    if fits {
                        spent.push(amount);
                    }
                }
                Move::Hear(total) => {
                    let heard = wide(total);
                    let next = [granted[0].max(heard[0]), granted[1].max(heard[1])];
                    prop_assert_eq!(spender.granted_to(total), next != granted);
                    granted = next;
                }
                Move::TakeBack(which) if !spent.is_empty() => {
                    spender.take_back(spent.swap_remove(which.index(spent.len())));
                }
                Move::TakeBack(_) | Move::GiveBack(_) | Move::Grant | Move::GrantAll | Move::Window(_) => {}
            }
            prop_assert_eq!(wide(spender.granted()), granted);
            prop_assert_eq!(wide(spender.spent()), sum(&spent));
            prop_assert_eq!(plus(wide(spender.available()), sum(&spent)), granted);
        }
    }
}
